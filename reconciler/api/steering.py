"""
Steering over the API: what a person asks for, as commits in their name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.api.operation import Call, Operation, Reply
from reconciler.api.pages.services import SpecActions
from reconciler.wire import Answered, AnswerRequest


@dataclass(frozen=True, slots=True)
class SteeringOperations:
    """Operations by which people answer."""

    actions: SpecActions

    async def answer(self, call: Call) -> Answered:
        """Commit an answer to the question of a task."""
        request: AnswerRequest = call.body
        outcome = await self.actions.answer(call.name, request.text, request.question, call.caller.agent)
        return Answered(task=call.name, commit=outcome.commit or None, message=outcome.message)

    @property
    def operations(self) -> Sequence[Operation]:
        """Return the operations."""
        return (
            Operation(
                method="POST",
                path="/api/v1/tasks/{name}/answer",
                name="answer",
                summary="Answer the question of a task's agent",
                handler=self.answer,
                scopes=("admin",),
                body=AnswerRequest,
                answers={200: Reply("The answer is committed", Answered)},
                problems={
                    404: "There is no task of that name",
                    409: "Somebody else changed the task's file meanwhile",
                },
            ),
        )
