"""
The pages of a real fleet: a real server process, real git, a run on this machine.
"""

import hashlib
import re

import pytest

from tests.e2e.served import eventually

TOKEN = "rct_boss.a-token-for-this-test"
FIX = """\
goal: Mend it.
adapter: script
repo: code
script: |
  printf 'line one\\n\\033[31mred\\033[0m <b>\\n'; echo better >> README.md
validation: ["grep better README.md"]
"""


@pytest.fixture
async def served(playground):
    playground.write("specs/repos/code.yaml", f"url: {playground.code}\n")
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    playground.write("specs/agents/boss.yaml", f"scopes: [admin]\ntoken_hash: {digest}\n")
    playground.task("web/fix", FIX)
    playground.task("web/later", "goal: Wait.\nadapter: script\nscript: 'true'\ndesired: suspended\n")
    playground.commit()
    served = playground.served()
    await served.start()
    yield served
    served.end()


async def test_from_the_pages_alone_a_run_is_followed_to_its_commit_and_a_task_is_steered(playground, served):
    async with served.client() as nobody, served.client(TOKEN) as boss:

        async def is_done():
            return "/tasks/web/fix" in (await nobody.get("/tasks?phase=completed")).text

        await eventually(is_done)
        task, log, diff = [(await nobody.get(f"/{page}/web/fix")).text for page in ("tasks", "logs", "diff")]
        commits = re.findall(r"/commits/([0-9a-f]{40})", task)
        commit = (await nobody.get(f"/commits/{commits[0]}")).text
        spec = (await nobody.get("/files/specs/tasks/web/fix.yaml")).text

        assert "Attempt 1, round 1" in task
        assert "specs/tasks/web/fix.yaml#L1" in task
        assert '<span class="fg-red">red</span> &lt;b&gt;' in log
        assert "better" in diff
        assert "running → completed" in commit
        assert "fleet-state/tasks/web/fix.yaml" in commit
        assert '<tr id="L1">' in spec
        for path in ("", "tasks", "hosts", "hosts/local", "agents", "plan", "history", "cost", "problems"):
            assert (await nobody.get(f"/{path}")).status_code == 200, path

        same_site = {"Sec-Fetch-Site": "same-origin"}
        form = {"verb": "resume", "reason": "it is time"}
        acted = await boss.post("/act/tasks/web/later", data=form, headers=same_site)
        asked = {"name": "web/new", "goal": "Another.", "adapter": "script", "script": "true", "do": "submit"}
        submitted = await boss.post("/new", data=asked, headers=same_site)
        refused = await nobody.post("/act/tasks/web/later", data=form, headers=same_site)

        assert (acted.status_code, submitted.status_code, refused.status_code) == (303, 303, 401)
        lines = playground.sh("git log -2 --format='%an: %s %b' main", playground.fleet)
        assert lines.startswith("boss: Submit web/new")
        assert "boss: Resume web/later it is time" in lines
        assert playground.sh("git status --short", playground.fleet) == ""

        async def is_new_there():
            return "/tasks/web/new" in (await nobody.get("/tasks?phase=completed")).text

        await eventually(is_new_there)
