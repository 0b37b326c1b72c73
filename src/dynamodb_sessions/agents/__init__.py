"""What agents keep besides sessions: conversations as the OpenAI Agents SDK wants them, an item a message.

Each of these takes an extra of its own, which is imported when the name is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamodb_sessions.agents.conversation import DynamoDBConversation as DynamoDBConversation
    from dynamodb_sessions.agents.listing import Conversation as Conversation
    from dynamodb_sessions.agents.reading import Message as Message

__all__ = ["Conversation", "DynamoDBConversation", "Message"]


def __getattr__(name: str) -> Any:
    """Import what is asked for. Raises ImportError if its extra is not installed."""
    if name in __all__:
        from dynamodb_sessions.agents import conversation  # noqa: PLC0415 - an extra

        return getattr(conversation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
