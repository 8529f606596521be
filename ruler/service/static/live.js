"use strict";

// Fetches the same page every few seconds and renews the elements that carry `data-live`, node by node: what did not
// change is left alone, so focus, selection and scroll position stay. Nothing is made of text here; the server escapes.
(() => {
  const PAUSE_MS = 3000;
  const LONGEST_PAUSE_MS = 30000;
  const bar = document.getElementById("live");
  const text = document.getElementById("live-text");
  const button = document.getElementById("live-button");
  let pause = PAUSE_MS;
  let paused = false;
  let timer = 0;
  let busy = false;

  const say = (words, isFault) => {
    text.textContent = words;
    bar.classList.toggle("live-fault", isFault);
  };

  const same = (old, fresh) =>
    old !== null && old.nodeName === fresh.nodeName && (old.id || "") === (fresh.id || "");

  const kept = (parent, fresh) => {
    const found = fresh.id ? document.getElementById(fresh.id) : null;
    return found && found.parentNode === parent ? found : null;
  };

  const renew = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const known = kept(old, child);
      // What stands before a known element is gone, or comes later and is made anew: moving it would take its focus.
      while (known && at && at !== known && !stays(at, fresh)) at = removed(at);
      if (same(at, child)) {
        renew(at, child);
        at = at.nextSibling;
      } else {
        old.insertBefore(document.importNode(child, true), at);
      }
    }
    while (at) at = removed(at);
  };

  const stays = (node, fresh) => Boolean(node.id) && [...fresh.children].some((child) => child.id === node.id);

  const removed = (node) => {
    const next = node.nextSibling;
    node.remove();
    return next;
  };

  const refresh = async () => {
    const response = await fetch(location.href, { redirect: "manual", cache: "no-store", credentials: "same-origin" });
    if (response.type === "opaqueredirect" || response.status === 401) {
      say("Signed out; reload the page", true);
      return;
    }
    if (!response.ok) throw new Error(String(response.status));
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (next) renew(part, next);
    }
    pause = PAUSE_MS;
    say("Live", false);
  };

  const schedule = () => {
    clearTimeout(timer);
    if (!paused && !document.hidden) timer = setTimeout(run, pause);
  };

  const run = async () => {
    if (busy) return;
    busy = true;
    try {
      await refresh();
    } catch {
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      say("No answer; trying again", true);
    } finally {
      busy = false;
      schedule();
    }
  };

  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Go on" : "Pause";
    say(paused ? "Paused" : "Live", false);
    if (paused) clearTimeout(timer);
    else run();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else if (!paused) run();
  });
  bar.hidden = false;
  schedule();
})();
