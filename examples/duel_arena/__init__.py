"""Duel Arena: a small web app that shows `dynamodb_sessions` at work. `python -m examples.duel_arena` starts it."""
