for (const header of document.querySelectorAll("thead th")) {
  const table = header.closest("table"), place = header.cellIndex, numeric = header.className === "num";
  const button = document.createElement("span"); // browsers print no <button> where they repeat a header
  button.role = "button";
  button.tabIndex = 0;
  button.append(...header.childNodes);
  header.append(button);
  button.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    button.click();
  });
  button.addEventListener("click", () => {
    const falling = header.ariaSort ? header.ariaSort === "ascending" : numeric;
    for (const other of header.parentNode.cells) other.ariaSort = null;
    header.ariaSort = falling ? "descending" : "ascending";
    const key = (row) => {
      const cell = row.cells[place];
      return cell.dataset.value !== undefined ? Number(cell.dataset.value) : numeric ? NaN : cell.textContent;
    };
    for (const body of table.tBodies) {
      const rows = [...body.querySelectorAll("tr:not(.group)")];
      body.append(...rows.sort((one, two) => {
        const [a, b] = [key(one), key(two)];
        if (a !== a || b !== b) return (a !== a) - (b !== b); // what has no number comes last either way
        return (falling ? -1 : 1) * (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
      }));
    }
  });
}
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
