"""The OpenAI-compatible HTTP server: `llavakit serve`.

A request's road: app.py (routes, keys, limits) -> schema.py (what may be asked) -> conversation.py and media.py
(messages and pictures, fetched safely) -> service.py (threads and deadlines) -> preparing.py (encoder, plans) ->
the engine -> answers.py (what is answered).
"""
