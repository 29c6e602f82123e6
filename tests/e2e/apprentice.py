"""
An agent for tests: it does, word for word, what its prompt tells it.

    apprentice.py DIARY [--resume] SESSION      the prompt on stdin

A line `write PATH: TEXT` of the prompt is a file to write, `wait for PATH` is a
file to wait for, and `ask TEXT` a question, whose answer goes where TEXT has `{answer}`;
a conflict with the base branch is resolved by keeping what
the branch has, and failed checks, or a merge queue's, by a file. DIARY gets a JSON line for each
call; a file `over` beside it ends all waiting.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

diary, *way, session = sys.argv[1:]
prompt = sys.stdin.read()
with Path(diary).open("a", encoding="utf-8") as file:
    run = os.environ.get("RECONCILER_RUN", "")
    file.write(json.dumps({"run": run, "session": session, "resumed": bool(way), "prompt": prompt}) + "\n")

for path in re.findall(r"^wait for (\S+)$", prompt, re.MULTILINE):
    while not (Path(path).exists() or Path(diary).with_name("over").exists()):
        time.sleep(0.05)
answer = os.environ.get("RECONCILER_ANSWER", "")
for question in re.findall(r"^ask (.+)$", prompt, re.MULTILINE)[-1:]:
    if f"{question}\n" not in prompt.partition("# Answers to your questions")[2]:
        Path(os.environ["RECONCILER_QUESTION_FILE"]).write_text(question, encoding="utf-8")
        json.dump({"session": session, "words": "I have a question."}, sys.stdout)
        sys.exit()
failed = prompt.partition("# What failed")[2]
if "## Conflict with the base branch" in prompt or "git merge origin/main" in failed:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *who, "merge", "-q", "-X", "ours", "origin/main"], check=True)
if "## Failed checks" in prompt or "## Sent back by the merge queue" in prompt:
    Path("mended.txt").write_text("yes\n", encoding="utf-8")
for path, text in re.findall(r"^write (\S+): (.+)$", prompt, re.MULTILINE):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(f"{text.replace('{answer}', answer)}\n", encoding="utf-8")
json.dump({"session": session, "words": "I wrote what I was told to write."}, sys.stdout)
