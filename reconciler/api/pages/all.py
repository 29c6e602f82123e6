"""
Every page, and where it is.
"""

from collections.abc import Sequence

from reconciler.api.pages.actions import (
    act_on_host,
    act_on_task,
    approve_removal,
    new_task_page,
    submit_task,
)
from reconciler.api.pages.commits import check_commit, check_path, commit_page, file_page
from reconciler.api.pages.cost import cost_page
from reconciler.api.pages.diff import diff_page
from reconciler.api.pages.handlers import Page, PageAction, PageStream
from reconciler.api.pages.history import history_page
from reconciler.api.pages.hosts import agents_page, host_page, hosts_page
from reconciler.api.pages.log import follow, log_page
from reconciler.api.pages.now import now_page
from reconciler.api.pages.plan import plan_page
from reconciler.api.pages.problems import problems_page
from reconciler.api.pages.task import task_page
from reconciler.api.pages.tasks import tasks_page

TABS = (
    ("Now", "/"),
    ("Tasks", "/tasks"),
    ("Hosts", "/hosts"),
    ("Agents", "/agents"),
    ("Plan", "/plan"),
    ("History", "/history"),
    ("Cost", "/cost"),
    ("Problems", "/problems"),
)
"""The navigation, in its order."""

PAGES: Sequence[Page] = (
    Page(path="/", name="now", show=now_page, tab="Now"),
    Page(path="/tasks", name="tasks", show=tasks_page, tab="Tasks"),
    Page(path="/tasks/<name:path>", name="task", show=task_page, tab="Tasks"),
    Page(path="/new", name="new_task", show=new_task_page, tab="Tasks"),
    Page(path="/logs/<name:path>", name="log", show=log_page, tab="Tasks"),
    Page(path="/diff/<name:path>", name="diff", show=diff_page, tab="Tasks"),
    Page(path="/hosts", name="hosts", show=hosts_page, tab="Hosts"),
    Page(path="/hosts/<name:path>", name="host", show=host_page, tab="Hosts"),
    Page(path="/agents", name="agents", show=agents_page, tab="Agents"),
    Page(path="/plan", name="plan", show=plan_page, tab="Plan"),
    Page(path="/history", name="history", show=history_page, tab="History"),
    Page(path="/cost", name="cost", show=cost_page, tab="Cost"),
    Page(path="/problems", name="problems", show=problems_page, tab="Problems"),
    Page(path="/commits/<name:path>", name="commit", show=commit_page, tab="History", check=check_commit),
    Page(path="/files/<name:path>", name="file", show=file_page, check=check_path),
)
STREAMS: Sequence[PageStream] = (PageStream(path="/follow/<name:path>", name="follow", events=follow),)
ACTIONS: Sequence[PageAction] = (
    PageAction(path="/act/tasks/<name:path>", name="task", act=act_on_task, tab="Tasks"),
    PageAction(path="/act/hosts/<name:path>", name="host", act=act_on_host, tab="Hosts"),
    PageAction(path="/act/removal", name="removal", act=approve_removal, tab="Now"),
    PageAction(path="/new", name="new_task", act=submit_task, tab="Tasks"),
)
