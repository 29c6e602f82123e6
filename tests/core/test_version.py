import pytest

from reconciler.core.adapter import Version
from reconciler.core.version import check_version
from reconciler.specs.layers import resolve_adapter as built_in


@pytest.mark.parametrize(
    ("name", "printed", "version", "ok"),
    [
        ("claude-code", "2.1.330 (Claude Code)\n", "2.1.330", True),
        ("claude-code", "2.1.197 (Claude Code)\n", "2.1.197", False),
        ("codex", "codex-cli 0.169.0\n", "0.169.0", True),
        ("codex", "codex-cli 0.39.0\n", "0.39.0", False),
        ("gemini", "0.61.0\n", "0.61.0", True),
        ("opencode", "1.18.33\n", "1.18.33", True),
        ("qwen", "0.24.4\n", "0.24.4", True),
        ("qwen", "0.15.10\n", "0.15.10", False),
    ],
)
def test_what_the_real_clis_print_is_compared_with_what_the_built_in_adapters_need(
    name, printed, version, ok
):
    found = check_version(built_in(name, None).version, printed)

    assert (found.version, found.ok) == (version, ok)
    assert version in found.message


def test_the_range_of_a_host_goes_before_the_adapters():
    asked = Version(command=("x", "--version"), range=">=2")

    assert not check_version(asked, "1.5.0").ok
    assert check_version(asked, "1.5.0", required=">=1,<2").ok


def test_without_a_range_any_version_will_do():
    assert check_version(Version(command=("x",)), "x 0.0.1").ok


def test_a_cli_that_names_no_version_will_not_do():
    found = check_version(Version(command=("x",)), "command not found\n\x1b[0m")

    assert (found.version, found.ok) == (None, False)
    assert found.message == "no version in 'command not found'"


def test_a_version_that_is_none_will_not_do():
    found = check_version(Version(command=("x",), pattern="v(.*)", range=">=1"), "vNext")

    assert not found.ok
    assert "cannot be compared" not in found.message
    assert "no version that can be compared" in found.message
