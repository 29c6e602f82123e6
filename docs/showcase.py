"""
Serve a fleet like a real one on this machine, to look at its pages: `python docs/showcase.py FOLDER`.

Hosts are OpenSSH servers on the loopback, one of them away; the forge is the fake of the tests, the
agents are stand-ins (`showcase_agent.py`). After a minute there is a task in every state that there
is. It says where it serves, with a token to act with, and ends with Ctrl-C. Runs on `local` go on.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from reconciler import clock
from reconciler.api.tokens import new_token
from tests.dispatch.sshd import Yard, yard
from tests.forge.double import ForgejoDouble
from tests.forge.state import Hook, PullTicket

FLEET, SHOP, SEARCH = "acme/fleet", "acme/shop", "acme/search"
ROOT, HERE = Path(__file__).parents[1], Path(__file__).parent
LISTEN, SECRET = "127.0.0.1:8420", "a-secret-of-the-hooks"
EVENTS = ["push", "create", "delete", "issues", "pull_request", "pull_request_review"]
CART = '''\
"""What is in the cart, and what it costs."""


def total(prices):
    """Return the sum of prices, with tax."""
    return sum(prices)


def discount(price, percent):
    return price * (100 - percent) / 100
'''
CENTS = r"\n\ndef cents(price):\n    return round(price * 100)\n"
SUM = "[\"python3 -c 'import cart; assert cart.total([0.1, 0.2]) == 0.3'\"]"


def task(goal: str, **fields: object) -> str:
    """Return the text of a task; fields in capitals are of its environment."""
    env = {name: value for name, value in fields.items() if name.isupper()}
    lines = [f"goal: {goal}", *(f"{name}: {value}" for name, value in fields.items() if name not in env)]
    if env:
        lines += ["env:", *(f'  {name}: "{value}"' for name, value in env.items())]
    return "\n".join(lines) + "\n"


FIRST = {
    "shop/readme": task(
        "The README says how to run the tests.", repo="shop", FILE="README.md", ADD="x", COST=0.09
    ),
    "shop/discounts": task(
        "Discounts are rounded down.", repo="shop", FILE="cart.py", ADD="# down", COST=0.38
    ),
    "search/synonyms": task(
        "Sneakers are found as trainers.", repo="search", FILE="synonyms.py", ADD="x = 1", COST=0.55
    ),
    "docs/style": task("The handbook is in one voice.", adapter="script", script="echo 14 pages changed"),
    "ops/backup-check": task("Last night's backup can be restored.", adapter="script", script="echo ok"),
}
"""Tasks that are there from the beginning."""
THEN = {
    "shop/checkout-speed": task(
        "The checkout page loads in under a second.", repo="shop", priority=8, SCENE="long", PACE=2
    ),
    "shop/guest-checkout": task(
        "Guests buy without an account.", repo="shop", priority=7, SCENE="long", PACE=3
    ),
    "shop/translate": task("The new texts are in French and German.", repo="shop", SCENE="long", PACE=4),
    "shop/round-totals": task(
        "Totals are rounded to cents.",
        repo="shop",
        review="pull_request",
        validation=SUM,
        FILE="cart.py",
        ADD=CENTS,
        COST=0.61,
        priority=6,
    ),
    "shop/gift-cards": task(
        "Gift cards can be used at the checkout.",
        repo="shop",
        review="pull_request",
        FILE="gift.py",
        ADD="LEFT = 0",
        COST=1.87,
    ),
    "shop/returns": task(
        "Customers can return what they bought.",
        repo="shop",
        validation="[python3 -m unittest test_returns]",
        fix_attempts=1,
        retries=0,
        priority=9,
        FILE="returns.py",
        ADD="LEFT = 0",
        COST=0.72,
    ),
    "shop/announce": task(
        "The changelog tells of the quicker checkout.", repo="shop", depends_on="[shop/checkout-speed]"
    ),
    "search/train-ranking": task(
        "The ranking knows the clicks of November.", repo="search", requires="[gpu]"
    ),
    "search/postgres": task(
        "The index is in PostgreSQL.", repo="search", retries=0, SCENE="error", COST=0.21
    ),
    "search/login": task("The crawler keeps its session.", repo="search", SCENE="login"),
    "search/speed": task(
        "Queries answer within 50 ms.",
        repo="search",
        review="pull_request",
        max_reviews=0,
        FILE="query.py",
        ADD="CACHE = 1",
        COST=1.1,
    ),
    "search/facets": task(
        "There are facets for colour and size.", repo="search", SCENE="long", PACE=5, priority=5
    ),
    "search/other-index": task("Try the other index.", repo="search", desired="suspended"),
    "search/typo": "gaol: What people mean is found.\nrepo: search\n",
    "ops/certificates": task("The staging hosts have new certificates.", execution_mode="http_pull"),
    "ops/minutes": task("The minutes of Monday are written.", execution_mode="http_pull"),
    "ops/nightly-report": task(
        "What the fleet cost is reported.", adapter="script", script="echo done", schedule="0 3 * * mon-fri"
    ),
    "docs/old": task("An idea that was given up.", desired="cancelled"),
    **{
        f"search/locale-{n}": task(
            f"Locale {n} has rules of its own.",
            repo="search",
            FILE=f"locale{n}.py",
            ADD="RULES = 0",
            COST=0.3,
            PACE=3 * n,
        )
        for n in (1, 2, 3, 4)
    },
}
"""Tasks that are asked for a moment later."""


def main() -> None:
    """Serve it until it is interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = Path(sys.argv[1]).resolve()
    root.mkdir(parents=True)
    with (
        contextlib.suppress(KeyboardInterrupt),
        yard(root / "hosts") as machines,
        ForgejoDouble(root / "forge") as forge,
    ):
        tokens = {name: new_token(name, clock.random_hex) for name in ("ada", "jeeves", "watcher")}
        begin(forge, specs(root, machines, tokens))
        env = environment(forge, root)
        with (
            running(env, "serve", "--listen", LISTEN, "--public-url", f"http://{LISTEN}"),
            worker(env, root, tokens["jeeves"][0]),
        ):
            sys.stdout.write(f"look at http://{LISTEN}/ and log in with {tokens['ada'][0]}\n")
            sys.stdout.flush()
            time.sleep(15)
            ask(forge)
            while True:
                time.sleep(1)
                review(forge)


def begin(forge: ForgejoDouble, files: Mapping[str, str]) -> None:
    """Make the repositories, with webhooks, one of which has a wrong secret."""
    forge.add_user("ada")
    for repo, first in ((FLEET, {"README.md": "The fleet.\n"}), (SHOP, {"cart.py": CART}), (SEARCH, None)):
        forge.add_repo(repo, first)
        forge.repos[repo].hooks = {1: Hook(1, f"http://{LISTEN}/hooks/forgejo", SECRET, True, EVENTS)}
    forge.repos[SHOP].hooks[2] = Hook(2, f"http://{LISTEN}/hooks/forgejo", "another", True, ["push"])
    files = {**files, **repos(forge)}
    forge.push_as_person(
        FLEET, "main", {**files, **in_folder(FIRST)}, author="ada", message="Begin the fleet"
    )


def specs(root: Path, machines: Yard, tokens: Mapping[str, tuple[str, str]]) -> Mapping[str, str]:
    """Return hosts, agents, the adapter and the settings."""
    (root / "secret").write_text(SECRET, encoding="utf-8")
    (root / "home" / ".ssh").mkdir(parents=True)
    away = machines.sshd("gpu1")  # only its keys are used
    login = f"identity: {away.identity}\nhost_key: {away.host_key}\n"
    gpu = f"address: gpu1.example.invalid\n{login}slots: 8\nlabels: [gpu]\n"
    files = {"specs/hosts/gpu1.yaml": gpu}
    names = ""
    for name, fields in (
        ("build1", "slots: 4\nlabels: [linux, x64]\ndaily_budget: {cost_usd: 10}\n"),
        ("build2", "slots: 3\nlabels: [linux, arm64]\n"),
        ("mac1", "labels: [macos]\ncordon: true\n"),
    ):
        sshd = machines.sshd(name)
        names += f"Host {name}.example.org\n  HostName 127.0.0.1\n  User {os.environ.get('USER', 'root')}\n"
        address = f"address: {name}.example.org\nport: {sshd.port}\nssh_config: true\n"
        files[f"specs/hosts/{name}.yaml"] = (
            f"{address}identity: {sshd.identity}\nhost_key: {sshd.host_key}\n{fields}"
        )
    (root / "home" / ".ssh" / "config").write_text(names, encoding="utf-8")
    for (name, (_, digest)), scope in zip(tokens.items(), ("admin", "agent", "read"), strict=True):
        files[f"specs/agents/{name}.yaml"] = f"scopes: [{scope}]\ntoken_hash: {digest}\n"
    command = f"[{sys.executable}, {HERE / 'showcase_agent.py'}, '{{turns}}', '{{model}}', '{{session}}']"
    files["specs/adapters/claude-code.yaml"] = (
        f"command: {command}\nversion: {{command: [echo, 2.1.301]}}\nhealth: {{command: ['true']}}\n"
    )
    files["specs/hosts/local.yaml"] = "slots: 1\n"
    return files


def repos(forge: ForgejoDouble) -> Mapping[str, str]:
    """Return the repos, and the settings with the forge of the fleet itself."""
    secrets = f"token: {{env: FORGE_TOKEN}}, webhook_secret: {{file: {forge.folder.parent / 'secret'}}}"
    at = {name: f"forge: {{api: '{forge.api}', repo: {name}, {secrets}}}\n" for name in (FLEET, SHOP, SEARCH)}
    files = {
        f"specs/repos/{name.partition('/')[2]}.yaml": f"url: {forge.repos[name].folder}\n{at[name]}"
        for name in (SHOP, SEARCH)
    }
    intervals = "backoff: 10s\nforge_interval: 5s\npoll_interval: 5s\n"
    budget = "daily_budget: {cost_usd: 15}\n"
    files["specs/fleet.yaml"] = f"adapter: claude-code\n{intervals}{budget}{at[FLEET]}"
    files["specs/repos/search.yaml"] += "daily_budget: {cost_usd: 9, tokens: 600000}\nmax_running: 3\n"
    return files


def ask(forge: ForgejoDouble) -> None:
    """Ask for more, by a push and by a pull request."""
    forge.push_as_person(FLEET, "main", in_folder(THEN), author="ada", message="Ask for what December needs")
    more = {"search/colours": task("Colours have names.", repo="search", priority=3)}
    forge.push_as_person(FLEET, "colours", in_folder(more), author="ada", message="Colours have names")
    forge.open_pull(FLEET, "colours", "Colours have names", author="ada")


def in_folder(tasks: Mapping[str, str]) -> Mapping[str, str]:
    """Return the files of tasks."""
    return {f"specs/tasks/{name}.yaml": text for name, text in tasks.items()}


def review(forge: ForgejoDouble) -> None:
    """Ask for changes of two pull requests, once."""
    forge.notice()
    texts = {
        "task/search/speed": "This caches per process.",
        "task/shop/gift-cards": "They need an expiry date.",
    }
    for repo in (SHOP, SEARCH):
        for ticket in list(forge.repos[repo].tickets.values()):
            if isinstance(ticket, PullTicket) and ticket.branch in texts and not ticket.reviews:
                forge.review(repo, ticket.number, "rejected", texts[ticket.branch], author="ada")


def environment(forge: ForgejoDouble, root: Path) -> Mapping[str, str]:
    """Return that of the reconciler."""
    return {
        **os.environ,
        "HOME": str(root / "home"),
        "RECONCILER_DATA_DIR": str(root / "data"),
        "RECONCILER_REPO": str(forge.repos[FLEET].folder),
        "FORGE_TOKEN": forge.token,
    }


def worker(env: Mapping[str, str], root: Path, token: str) -> contextlib.AbstractContextManager[None]:
    """Have an outside agent take a task and keep it."""
    file = root / "jeeves.token"
    file.touch(mode=0o600)
    file.write_text(token, encoding="utf-8")
    where = ("--url", f"http://{LISTEN}", "--token-file", str(file), "--state-dir", str(root / "jeeves"))
    return running(env, "agent", "pull", *where, "--no-clone", "--command", "sleep 100000")


@contextlib.contextmanager
def running(env: Mapping[str, str], *args: str) -> Iterator[None]:
    """Have a command of the reconciler run as long as the block lasts."""
    process = subprocess.Popen([sys.executable, "-m", "reconciler", *args], env=env, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
