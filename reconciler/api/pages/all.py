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
from reconciler.api.pages.diff import diff_page
from reconciler.api.pages.handlers import Page, PageAction, PageStream
from reconciler.api.pages.log import follow, log_page
from reconciler.api.pages.now import now_page
from reconciler.api.pages.task import task_page
from reconciler.api.pages.tasks import tasks_page

TABS = (("Now", "/"), ("Tasks", "/tasks"))
"""The navigation, in its order."""

PAGES: Sequence[Page] = (
    Page(path="/", name="now", show=now_page, tab="Now"),
    Page(path="/tasks", name="tasks", show=tasks_page, tab="Tasks"),
    Page(path="/tasks/<name:path>", name="task", show=task_page, tab="Tasks"),
    Page(path="/new", name="new_task", show=new_task_page, tab="Tasks"),
    Page(path="/logs/<name:path>", name="log", show=log_page, tab="Tasks"),
    Page(path="/diff/<name:path>", name="diff", show=diff_page, tab="Tasks"),
    Page(path="/commits/<name:path>", name="commit", show=commit_page, check=check_commit),
    Page(path="/files/<name:path>", name="file", show=file_page, check=check_path),
)
STREAMS: Sequence[PageStream] = (PageStream(path="/follow/<name:path>", name="follow", events=follow),)
ACTIONS: Sequence[PageAction] = (
    PageAction(path="/act/tasks/<name:path>", name="task", act=act_on_task, tab="Tasks"),
    PageAction(path="/act/hosts/<name:path>", name="host", act=act_on_host),
    PageAction(path="/act/removal", name="removal", act=approve_removal, tab="Now"),
    PageAction(path="/new", name="new_task", act=submit_task, tab="Tasks"),
)
