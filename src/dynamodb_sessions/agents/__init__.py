"""What agents keep besides sessions: the OpenAI Agents SDK's conversations, and LangGraph's checkpoints.

Each of these takes an extra of its own, which is imported when the name is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamodb_sessions.agents.conversation import DynamoDBConversation as DynamoDBConversation
    from dynamodb_sessions.agents.langgraph import DynamoDBCheckpointer as DynamoDBCheckpointer
    from dynamodb_sessions.agents.langgraph import Thread as Thread
    from dynamodb_sessions.agents.listing import Conversation as Conversation
    from dynamodb_sessions.agents.reading import Message as Message

_HOMES = {
    "Conversation": "conversation",
    "DynamoDBCheckpointer": "langgraph",
    "DynamoDBConversation": "conversation",
    "Message": "conversation",
    "Thread": "langgraph",
}

__all__ = ["Conversation", "DynamoDBCheckpointer", "DynamoDBConversation", "Message", "Thread"]


def __getattr__(name: str) -> Any:
    """Import what is asked for. Raises ImportError if its extra is not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
