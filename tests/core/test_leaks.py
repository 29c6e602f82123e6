"""
Secrets in what commits add: where they are, and never what they are.
"""

from reconciler.core.leaks import Leak, Passage, commit_passage, find_leaks, leak_check, patch_passages
from reconciler.core.masking import Mask

OWN = "own-secret-of-this-run-0123"
TOKEN = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
COMMIT = "1" * 40
PATCH = f"""{COMMIT}
diff --git a/src/a.py b/src/a.py
index 000..111 100644
--- a/src/a.py
+++ b/src/a.py
@@ -3,0 +4,2 @@ def f():
+first
+key = "{OWN}"
@@ -9 +11 @@
-old
+token = "{TOKEN}"
diff --git "a/odd\\303\\274.txt" "b/odd\\303\\274.txt"
new file mode 100644
--- /dev/null
+++ "b/odd\\303\\274.txt"
@@ -0,0 +1 @@
+nothing
diff --git a/gone b/gone
deleted file mode 100644
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-{OWN}
""".encode()


def leaks(passages, *, formats=True, is_allowed=lambda _path: False):
    return find_leaks(passages, Mask(frozenset({OWN})), formats=formats, is_allowed=is_allowed)


def test_a_leak_names_file_line_and_kind_and_never_the_secret():
    told = [str(leak) for leak in leaks(patch_passages(PATCH))]

    assert [line.partition(" (")[0] for line in told] == ["src/a.py:5", "src/a.py:11"]
    assert "a secret that the run was given" in told[0]
    assert "looks like a" in told[1]
    assert not any(OWN in line or TOKEN in line for line in told)


def test_what_commits_add_is_read_file_by_file_and_what_they_delete_is_left_out():
    added = [(passage.path, passage.text, tuple(passage.lines)) for passage in patch_passages(PATCH)]

    assert added == [
        ("src/a.py", "src/a.py", ()),
        ("src/a.py", f'first\nkey = "{OWN}"\ntoken = "{TOKEN}"', (4, 5, 11)),
        ("oddü.txt", "oddü.txt", ()),
        ("oddü.txt", "nothing", (1,)),
    ]


def test_of_a_merge_only_what_no_parent_has_is_added():
    head = f"{COMMIT}\ndiff --cc a\nindex 0,1..2\n--- a/a\n+++ b/a\n"
    patch = f"{head}@@@ -1,2 -1,2 +1,3 @@@\n++new\n +theirs\n  both\n"

    assert [(each.text, tuple(each.lines)) for each in patch_passages(patch.encode())][1] == ("new", (1,))


def test_a_file_may_be_allowed_to_have_tokens_but_never_a_secret_of_the_run():
    allowed = leaks(patch_passages(PATCH), is_allowed=lambda path: path == "src/a.py")

    assert [(leak.line, leak.is_own) for leak in allowed] == [(5, True)]
    assert leaks(patch_passages(PATCH), formats=False) == allowed


def test_a_secret_in_a_message_or_in_the_name_of_a_file_is_told_without_it():
    message = commit_passage(COMMIT, f"tree 0\nauthor a\n\nTitle\n\nwith {OWN}\n".encode())
    name = Passage(COMMIT, f"dir/{OWN}.txt", f"dir/{OWN}.txt")

    in_message, in_name = leaks([message, name])

    assert str(in_message).startswith("the message of commit 1111111111")
    assert in_message.line == 3
    assert str(in_name).startswith("the name of ")
    assert OWN not in f"{in_message}{in_name}"


def test_a_secret_that_a_terminal_would_show_in_pieces_is_seen_in_a_text_of_any_length():
    split = f"{'x' * 1_100_000}\n{OWN[:9]}\x1b[0m{OWN[9:]}\n{OWN}\n"

    seen = leaks([Passage(COMMIT, "log", split, range(1, 5))])

    assert 3 in {leak.line for leak in seen}


def test_the_check_lists_some_and_says_how_many_more():
    many = [Leak(COMMIT, "a", line, "looks like a key", is_own=False) for line in range(1, 31)]

    check = leak_check(many)

    assert check.exit_code == 1
    assert "and 10 more" in check.output
    assert check.summary == f"secret gate: {many[0]}"
