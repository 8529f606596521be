"""A minimal GRPO trainer: small enough to be read in one sitting.

    python -m trainer.train --task arithmetic --reward judge --judge simulated --steps 80 --out runs/first

Read `train.py` first: its loop samples, scores and updates. What it calls, in that order:

- `batch.py`: the groups of a step, and the rewards that are coming for them.
- `rollouts.py`: many attempts at once, from problems to finished groups; `sampling.py` draws their tokens.
- `rewards.py`: finished groups -> rewards, by a judge, by rules, by truth.
- `update.py`: one batch -> a step of the optimiser, in micro-batches; `losses.py` is its mathematics.

What these are about: `environments.py` (what a policy acts in), `policy.py` (a language model) and `chat_template.py`
(how it writes conversations), `episodes.py` (what was sampled), `settings.py`, and `tasks/` (two tasks with problems,
rules and a rubric).

Around a run: `run.py` (its folder), `metrics.py`, `monitor.py`, `alarm.py`, `curve.py`, `checkpoints.py`,
`held_out.py` (how good a policy is), `warm_up.py` and `tiny.py` (tiny policies, by imitation), `command_line.py`.

Apart from all that: `distill/` makes small judges, from truth or from another judge's scores.
"""
