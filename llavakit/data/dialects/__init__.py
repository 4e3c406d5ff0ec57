"""How data sets spell a conversation: one file for each dialect, `table.py` lists them all.

A dialect is recognised by the shape of a record, never by the name of its file. It reads what it defines. Whatever
else looks like a medium or like an instruction to the trainer is a flaw (`unread.py`): nothing is trained as if it
were not there.
"""
