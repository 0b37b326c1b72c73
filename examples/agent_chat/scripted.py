"""ScriptedModel: an LLM without the LLM. It says what it has been told, so that one sees what is remembered."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelResponse, Usage
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

NAME = "scripted"


class ScriptedModel(Model):
    """Answers at once, or, streamed, a word every `pace` seconds."""

    def __init__(self, pace: float = 0.0) -> None:
        self._pace = pace

    async def get_response(
        self,
        system_instructions: str | None,  # noqa: ARG002
        input: str | list[Any],  # noqa: A002 - the SDK's name
        *_: Any,
        **__: Any,
    ) -> ModelResponse:
        return ModelResponse(output=[_message(answer(input))], usage=Usage(), response_id=None)

    async def stream_response(
        self,
        system_instructions: str | None,  # noqa: ARG002
        input: str | list[Any],  # noqa: A002 - the SDK's name
        *_: Any,
        **__: Any,
    ) -> AsyncIterator[Any]:
        text = answer(input)
        number = 0
        for number, word in enumerate(text.split(" ")):
            await asyncio.sleep(self._pace)
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta",
                item_id=NAME,
                output_index=0,
                content_index=0,
                delta=word if number == 0 else f" {word}",
                logprobs=[],
                sequence_number=number,
            )
        response = Response(
            id=NAME,
            created_at=time.time(),
            model=NAME,
            object="response",
            output=[_message(text)],
            parallel_tool_calls=False,
            tool_choice="none",
            tools=[],
        )
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=number + 1)


def answer(heard: str | list[Any]) -> str:
    """Return what there is to say to a conversation."""
    texts = [heard] if isinstance(heard, str) else [each["content"] for each in heard if each.get("role") == "user"]
    if len(texts) == 1:
        return f"You said: {texts[0]} I shall remember it."
    return f"You said: {texts[-1]} Before that you said: {' '.join(texts[:-1])}"


def _message(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(type="output_text", text=text, annotations=[])
    return ResponseOutputMessage(id=NAME, type="message", role="assistant", status="completed", content=[content])
