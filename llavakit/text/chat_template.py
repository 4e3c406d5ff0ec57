"""A template's row as a Jinja chat template, the form in which other programs keep it beside a tokenizer.

Rendered by `transformers`, vLLM or SGLang it is the text that `Template.pieces` makes, with one special token where
an image or a video stands. It takes OpenAI's messages: a content is a text, or a list of parts with a type. What a
chat template cannot do is keep special-token text inside a question from being read as a token.
"""

import json
import re

from llavakit.text.template import Placement, Template

# Everything is a block that eats the blanks around it, so no setting of the program's Jinja matters.
_START = """
{%- if messages[0]['role'] == 'system' -%}
  {%- set talk = messages[1:] -%}
  {%- set content = messages[0]['content'] -%}
  {%- if content is string -%}
    {%- set said = namespace(text=content) -%}
  {%- else -%}
    {%- set said = namespace(text='') -%}
    {%- for part in content -%}{%- set said.text = said.text + part['text'] -%}{%- endfor -%}
  {%- endif -%}
  {%- set system = GIVEN_SYSTEM -%}
{%- else -%}
  {%- set talk = messages -%}
  {%- set system = SYSTEM -%}
{%- endif -%}
{%- set block = '' -%}
{%- if HAS_SYSTEM -%}{%- set block = BEFORE_SYSTEM + system + AFTER_SYSTEM -%}{%- endif -%}
{{- BOS -}}{{- OUTER_BLOCK -}}{{- OPENING -}}
"""

_MESSAGE = """
{%- for message in talk -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('roles must be user, assistant, user, ... (after an optional system)') -}}
  {%- endif -%}
  {%- if message['content'] is string -%}
    {%- set content = [{'type': 'text', 'text': message['content']}] -%}
  {%- else -%}
    {%- set content = message['content'] -%}
  {%- endif -%}
  {%- set seen = namespace(text='', line='', media='', number=0, front=0) -%}
  {%- for part in content -%}
    {%- if part['type'] == 'text' -%}
      {%- if SKIPPED -%}{%- else -%}
        {%- if seen.front == 0 -%}{%- set seen.front = seen.number + 1 -%}{%- endif -%}
        {%- set seen.text = seen.text + part['text'] -%}
        {%- set seen.line = seen.line + SAID -%}
      {%- endif -%}
    {%- else -%}
      {%- set slot = BEFORE_MEDIUM + ('<video>' if 'video' in part['type'] else '<image>') + AFTER_MEDIUM -%}
      {%- set seen.number = seen.number + 1 -%}
      {%- set seen.media = seen.media + slot + '\\n' -%}
      {%- set seen.line = seen.line + slot -%}
    {%- endif -%}
  {%- endfor -%}
  {%- set first = seen.front == 0 or seen.front == seen.number + 1 -%}
  {%- if message['role'] == 'assistant' -%}
    {{- HEADER -}}{{- LEAD -}}{{- TEXT -}}{{- END -}}{{- TAIL -}}
  {%- else -%}
    {%- if loop.index0 > 0 -%}{{- BETWEEN -}}{%- endif -%}
    {{- BEFORE_USER -}}
    {%- if loop.index0 == 0 -%}{{- INNER_BLOCK -}}{%- endif -%}
    {%- if IN_FRONT -%}{{- seen.media -}}{{- seen.text | trim -}}
    {%- else -%}{{- LINE -}}{%- endif -%}
    {{- AFTER_USER -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- HEADER -}}{%- else -%}{{- CLOSING -}}{%- endif -%}
"""

# When media go in front, each with a newline: see place_front and its like in template.py.
_FRONT = "(seen.number == 1 or (seen.number > 1 and first))"
_OWN_LAYOUT = "first and seen.text[:1] == '\\n'"
_IN_FRONT: dict[Placement, str] = {
    "front": _FRONT,
    "single_front": f"{_FRONT} and not ({_OWN_LAYOUT} ANY_TEXT)",
    "as_is": "false",
}


def chat_template(template: Template, *, bos: bool) -> str:
    """The Jinja text of a template; `bos` says that the tokenizer has such a token."""
    trim = " | trim" if template.trim else ""
    strings = {
        "SYSTEM": template.system,
        "BEFORE_SYSTEM": template.system_frame[0],
        "AFTER_SYSTEM": template.system_frame[1],
        "OPENING": template.opening,
        "BETWEEN": template.between,
        "BEFORE_USER": template.user[0],
        "AFTER_USER": template.user[1],
        "BEFORE_MEDIUM": template.media_frame[0],
        "AFTER_MEDIUM": template.media_frame[1],
        "HEADER": template.header,
        "LEAD": template.lead,
        "END": template.end,
        "TAIL": template.tail,
        "CLOSING": template.closing,
    }
    words = {
        name: json.dumps(text) for name, text in strings.items()
    }  # a Jinja literal is written like JSON's
    words |= {
        "BOS": "bos_token" if template.bos and bos else "''",
        "GIVEN_SYSTEM": "said.text" + trim,
        "HAS_SYSTEM": "system" if template.user_text else "false",
        "OUTER_BLOCK": "''" if template.system_in_user else "block",
        "INNER_BLOCK": "block" if template.system_in_user else "''",
        "SKIPPED": "seen.line == '' and part['text'] | trim == ''" if template.trim else "false",
        "SAID": "part['text']" if template.user_text else "''",
        "TEXT": "seen.text" + trim,
        "LINE": "seen.line" + trim,
        "IN_FRONT": _IN_FRONT[template.placement].replace("ANY_TEXT", "and seen.text | trim" if trim else ""),
    }
    return re.sub(r"\b[A-Z][A-Z_]+\b", lambda found: words[found[0]], (_START + _MESSAGE).strip())
