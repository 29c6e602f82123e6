"""
Builds of the program that break what it promises, each with the tests that claim to guard that promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one file of the program; what it replaces is there once."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A build that breaks a promise."""

    promise: str
    about: str
    edits: Sequence[Edit]
    guards: Sequence[str]
    """Tests of which at least one must fail, by their ids."""


_LOOP = "reconciler/controller/loop.py"
_WRITER = "reconciler/store/writer.py"
_STATE = "reconciler/store/state.py"
_PLAN = "reconciler/core/planning/plan.py"
_JOURNAL = "reconciler/forge/journal.py"
_POWER = "tests/crashes/test_power_loss.py"
_BEFORE_THE_COMMIT = "        steps = quarantine.writable([*news, *limits.changes, *seen, *planned])\n"

MUTANTS: Sequence[Mutant] = (
    Mutant(
        "P1",
        "the folders of pack and ref are not synced",
        [Edit(_WRITER, "        self._sync(is_new=head is None)\n        return ids", "        return ids")],
        [_POWER],
    ),
    Mutant(
        "P1",
        "git syncs nothing",
        [Edit("reconciler/git/process.py", '"core.fsync=all"', '"core.fsync=none"')],
        [_POWER],
    ),
    Mutant(
        "P1",
        "a file is replaced before its content is on disk",
        [Edit("reconciler/files.py", "            if durable:\n                _flush(file)\n", "")],
        [_POWER],
    ),
    Mutant(
        "P1",
        "a webhook is answered before it is on disk",
        [Edit(_JOURNAL, "                os.fsync(file.fileno())\n", "")],
        [_POWER],
    ),
    Mutant(
        "P1",
        "a worker is answered before its report is on record",
        [
            Edit(
                _LOOP,
                _BEFORE_THE_COMMIT,
                f"{_BEFORE_THE_COMMIT}"
                "        self.controllers.leases.settle(batch.lease_requests, batch.reports)\n",
            )
        ],
        ["tests/controller/test_leases.py::test_no_report_is_acknowledged_that_is_not_on_record"],
    ),
    Mutant(
        "P1",
        "a batch is acknowledged without the remote",
        [Edit(_STATE, "                    await self._push(ids[-1])\n", "                    pass\n")],
        ["tests/store/test_remote.py::test_what_is_acknowledged_is_on_the_remote"],
    ),
    Mutant(
        "P2",
        "a run is started before its intention is on record",
        [
            Edit(
                _LOOP,
                _BEFORE_THE_COMMIT,
                f"{_BEFORE_THE_COMMIT}        cache.statuses = statuses\n"
                "        await self.stages.actuator.act(cache.last_plan, planned)\n",
            )
        ],
        ["tests/controller/test_loop.py::test_nothing_starts_that_is_not_on_record"],
    ),
    Mutant(
        "P2",
        "a run that is started once more starts once more",
        [
            Edit(
                "reconciler/dispatch/wrapper.sh",
                'if [ -e "$run/claim" ] || [ -h "$run/claim" ] || [ -e "$run/exit" ]; then',
                "if false; then",
            ),
            Edit(
                "reconciler/dispatch/wrapper.sh",
                'if [ -e "$run/claim" ] || ! ln "$mine.claim" "$run/claim" 2>/dev/null; then',
                'if ! ln -f "$mine.claim" "$run/claim" 2>/dev/null; then',
            ),
        ],
        ["tests/dispatch/test_protocol.py", "tests/dispatch/test_wrapper.py"],
    ),
    Mutant(
        "P2",
        "a worker whose lease is over may report",
        [Edit("reconciler/core/runs/leases.py", "    if status.attempt != epoch:", "    if False:")],
        [
            "tests/core/test_leases.py::test_who_asks_for_a_task_that_is_not_theirs_learns_why",
        ],
    ),
    Mutant(
        "P3",
        "any number of tasks is removed at once",
        [Edit(_PLAN, "    held = gone if is_much else gone & waits\n", "    held = gone & waits\n")],
        [
            "tests/core/test_plan_properties.py::test_more_than_the_guard_allows_is_never_removed_at_once",
            "tests/controller/test_loop.py::test_emptied_specs_wait_for_a_person",
        ],
    ),
    Mutant(
        "P3",
        "specs that cannot be read are taken for empty ones",
        [
            Edit(
                _LOOP,
                "            self.inbox.is_notified = True\n            raise\n",
                "            before = self.cache.desired\n"
                '            desired = replace(before, tasks={}, revision="0" * 40)\n',
            )
        ],
        ["tests/controller/test_loop.py::test_specs_that_cannot_be_read_stop_nothing"],
    ),
    Mutant(
        "P3",
        "a broken spec is taken for one that was removed",
        [
            Edit(
                "reconciler/core/renames.py",
                "in desired.tasks or name in desired.broken or spec_owner(name) in desired.broken:\n",
                "in desired.tasks:\n",
            ),
            Edit(
                _PLAN,
                "        if name in desired.broken and (status is not None or spec is None):\n",
                "        if name in desired.broken and status is None and spec is None:\n",
            ),
        ],
        [
            "tests/core/test_plan_properties.py::test_a_broken_spec_stalls_its_own_task_and_stops_nothing",
            "tests/core/test_plan.py::test_a_live_run_goes_on_while_its_spec_is_broken",
        ],
    ),
    Mutant(
        "P4",
        "the record is pushed by force",
        [
            Edit(
                "reconciler/git/remote.py",
                'f"{commit}:refs/heads/{branch}"',
                'f"+{commit}:refs/heads/{branch}"',
            )
        ],
        ["tests/store/test_remote.py::test_a_push_that_would_take_something_away_is_a_conflict"],
    ),
    Mutant(
        "P4",
        "what somebody else wrote is overwritten",
        [
            Edit(
                _WRITER,
                "        if self.head != head:\n            self._kill_stream()\n",
                "        if False:\n",
            ),
            Edit(_WRITER, "force=beside is not None,", "force=True,"),
        ],
        [
            "tests/store/test_state.py::test_somebody_elses_commit_is_a_conflict_and_nothing_of_the_batch_is_recorded"
        ],
    ),
    Mutant(
        "P4",
        "a record that went back is believed",
        [Edit(_STATE, '            await self._marks.require("record", self._branch, head)\n', "")],
        ["tests/cli/test_rewind.py::test_a_record_that_went_back_stops_the_fleet_and_is_put_back"],
    ),
    Mutant(
        "P5",
        "what a task waits for is recorded at each look",
        [
            Edit(
                _PLAN,
                "        if before != after:\n            reason = after.message if after else",
                "        if before != after or after:\n            reason = after.message if after else",
            )
        ],
        [
            "tests/core/test_plan_properties.py::test_a_plan_on_record_leaves_nothing_more_to_record",
            "tests/core/test_plan_properties.py::test_a_quiet_fleet_writes_nothing_as_time_goes_by",
        ],
    ),
    Mutant(
        "P5",
        "a task does not say what it waits for",
        [
            Edit(
                _PLAN,
                "        if before != after:\n            reason = after.message if after else",
                "        if before and not after:\n            reason = after.message if after else",
            )
        ],
        ["tests/core/test_plan_properties.py::test_whatever_is_open_runs_starts_or_says_what_it_waits_for"],
    ),
    Mutant(
        "P6",
        "what is settled is not read back from the record",
        [
            Edit(
                _LOOP,
                "        cache.statuses, cache.hosts = await state.load()\n",
                "        cache.statuses, cache.hosts = await state.load()\n"
                "        statuses = cache.statuses.items()\n"
                "        cache.statuses = {n: s for n, s in statuses if not s.phase.is_settled}\n",
            )
        ],
        ["tests/e2e/test_damage.py::test_without_its_data_folder_a_fleet_goes_on_as_well"],
    ),
    Mutant(
        "P6",
        "the attempts of tasks that are gone are not read back",
        [
            Edit(
                _STATE,
                "        attempts = {name: max(own.get(name, 0), others.get(name, 0)) for name in names}\n",
                "        attempts = {name: others.get(name, 0) for name in names}\n",
            )
        ],
        [
            "tests/store/test_state.py::test_the_attempts_of_a_task_are_known_after_it_is_gone_and_after_a_restart"
        ],
    ),
    Mutant(
        "P6",
        "a clone is not brought to where its remote is",
        [Edit(_STATE, "            await self._writer.reset(theirs)\n", "            pass\n")],
        ["tests/store/test_remote.py::test_everything_is_rebuilt_when_the_clone_is_deleted"],
    ),
    Mutant(
        "P7",
        "an event that is not legal ends the look at all tasks",
        [
            Edit(
                "reconciler/controller/quarantine.py",
                "                self.add(event.task, error)\n                # All or nothing",
                "                raise\n                # All or nothing",
            )
        ],
        [
            "tests/controller/test_faults.py::test_what_is_planned_and_cannot_happen_sets_aside_its_own_task_alone"
        ],
    ),
    Mutant(
        "P7",
        "a mistake of ours about one file ends the reading of all",
        [
            Edit(
                "reconciler/specs/parse.py",
                "    except Exception as error:  # noqa: BLE001 - whatever it is, it is told of the file",
                "    except ZeroDivisionError as error:  #",
            )
        ],
        ["tests/specs/test_bad_files.py::test_a_file_that_meets_a_mistake_of_ours_breaks_nothing_else"],
    ),
    Mutant(
        "P7",
        "a mistake is told with another column",
        [
            Edit(
                "reconciler/specs/parse.py",
                "        line, column = places[where][0 if mistake.at_key or lacks_key else 1] if where",
                "        line, column = (places[where][0][0], 1) if where",
            )
        ],
        ["tests/specs/test_bad_files.py::test_a_bad_file_is_told_of_in_full_and_nothing_else_is_touched"],
    ),
)
