"""Agent chat: a login, and a conversation with an agent that outlives the page. `python -m examples.agent_chat`."""
