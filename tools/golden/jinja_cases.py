#!/usr/bin/env python3
"""Writes tests/golden/jinja/cases.json: small templates that use one construct each, and what jinja2 makes of them
as transformers sets it up (trim_blocks, lstrip_blocks, sandboxed, its tojson). Usage: jinja_cases.py"""
import json, os
from transformers.utils.chat_template_utils import _compile_jinja_template

VARS = {
    "messages": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "Hällo 'you' \"there\" 你好 👋"},
                 {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"b": 1, "a": [1.5, None, True]}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"p": {"type": "string"}}}}],
    "n": 7, "x": 2.5, "big": 1e20, "small": 1e-7, "yes": True, "no": False, "nothing": None, "empty": "", "list": [3, 1, 2], "words": ["b", "A", "c", "a"],
    "text": "  two  words \n", "dict": {"k": "v", "n": 1, "l": [1, "q'"]}, "bos_token": "<s>", "add_generation_prompt": True,
}

EXPRESSIONS = """
n + 1 | n - 10 | n * x | n / 2 | n // 2 | -n // 2 | n % 4 | -n % 4 | 2 ** 10 | 2 ** -1 | x // 1 | -x % 2 | n ~ x ~ nothing | 1.0 | 100000000000000000.0 | big | small | 0.1 + 0.2 | 1e16 | 123456789.125
'a' + "b" | 'ab' * 3 | [1, 2] + [3] | (1, 2) | (1,) | [] | {} | {'a': 1, 'b': [None, true, "x'y"]} | dict | list | 'it''s' | "tab\\tnew\\nq\\"" | 'u\\u00e9' | nothing | yes | undefined_thing
n == 7 | n == 7.0 | yes == 1 | 'a' < 'b' | 1 < 2 < 3 | 1 < 2 > 5 | n != 7 | [1, 2] < [1, 3] | 'a' in 'cat' | 'z' not in 'cat' | 2 in list | 'k' in dict | 9 in list | not n | yes and no | no or 'other' | nothing or empty or 'last'
n is defined | zzz is defined | zzz is undefined | nothing is none | n is not none | text is string | n is number | n is integer | x is float | yes is boolean | list is iterable | dict is mapping | list is sequence | text is sequence | yes is true | no is false | n is odd | n is even | n is divisibleby 7 | n is eq 7 | n is equalto(7) | n is gt 3 | 3 is in list | 'abc' is lower | 'ABC' is upper | n is sameas 7 | text is mapping
'yes' if n > 3 else 'no' | 'yes' if n > 30 | n if no else x if no else 'z'
list[0] | list[-1] | list[5] | list[1:] | list[::-1] | list[:-1] | list[-2:] | text[2:5] | 'Hällo'[1] | 'Hällo'[::-1] | dict['k'] | dict.k | dict['zz'] | dict.l[1] | messages[0]['content'] | messages[0].role | messages[-1].tool_calls[0].arguments.a[0] | list.0
text.strip() | text.lstrip() | text.rstrip() | 'xxaxx'.strip('x') | 'a,b,c'.split(',') | 'a,b,c'.split(',', 1) | ' a  b '.split() | 'a b c'.split(none, 1) | 'a-b-c'.rsplit('-', 1) | 'abc'.startswith('ab') | 'abc'.endswith(('x', 'c')) | 'straße'.upper() | 'ÀB'.lower() | 'hELLO wORLD'.capitalize() | "it's a dog's life".title() | 'aXbX'.replace('X', 'yy') | 'aXbX'.replace('X', '', 1) | 'hällo'.find('l') | 'hallo'.find('z') | '-'.join(words) | '12'.isdigit() | 'a1'.isalnum() | ' '.isspace() | 'a\\nb\\r\\nc'.splitlines() | 'banana'.count('an') | 'prefix-a'.removeprefix('prefix-') | 'a.txt'.removesuffix('.txt') | '{} and {1} {{}}'.format(1, 2) if no else 'x' | 'a{}b{}'.format(n, 'c')
dict.items()|list | dict.keys()|list | dict.values()|list | dict.get('k') | dict.get('zz') | dict.get('zz', 'other') | list.count(3) | list.index(2)
text|trim | 'a'|upper | words|length | 'Hällo'|length | dict|length | 'hello world'|title | 'hELLO'|capitalize | words|join | words|join('-') | messages|map(attribute='role')|join(',') | words|map('upper')|join | zzz|default('d') | empty|default('d') | empty|default('d', true) | zzz|d('e')
'a-b'|replace('-', '+') | list|first | list|last | list|sort | list|sort(reverse=true) | words|sort | words|sort(case_sensitive=true) | list|reverse|list | 'abc'|reverse | list|sum | list|max | list|min | ['a', 'A', 'b']|unique|list | words|list | 'abc'|list | dict|dictsort | dict|items|list
list|select('gt', 1)|list | list|reject('odd')|list | messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list | messages|rejectattr('role', 'in', ['user', 'system'])|list|length | messages|selectattr('tool_calls', 'defined')|list|length | messages|selectattr('content')|list|length | [0, 1, '', 'a']|select|list | nothing|selectattr('a')|list
'3'|int | '3.7'|int | 'x'|int | 'x'|int(5) | '2.5'|float | x|int | x|round | 2.567|round(2) | 3.5|round | -n|abs | n|string | n|float | 5|string ~ 'a'
dict|tojson | messages|tojson | tools|tojson(indent=2) | messages[2]|tojson(indent=4) | 'é"\\n'|tojson | x|tojson | {'b': 1, 'a': 2}|tojson(sort_keys=true) | []|tojson(indent=2) | {}|tojson | (1, 2)|tojson | nothing|tojson | big|tojson
'a\\nb\\n\\nc'|indent | 'a\\nb'|indent(2, true) | 'a\\n\\nb'|indent(2, false, true) | 'x'|safe | text|string|length | list|batch(2)|list | list|batch(2, 0)|list
range(3)|list | range(1, 4)|list | range(10, 0, -3)|list | dict|attr('k') is defined | namespace(a=1).a | 1 + 2 * 3 - 4 | (1 + 2) * 3 | -2 ** 2 | 7 - 2 - 1 | 2 * 3 ~ 'a' | not yes or yes | 'a' ~ 1 + 2 | 1 if yes and not no else 2 | - n|abs | n|string + 'a' | messages|length > 2 | words[1]|lower == 'a'
""".strip()

TEMPLATES = [
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "  {% if yes %}  b  {% endif %}  c\n\n", "x {%- if yes -%} b {%- endif -%} y", "  {%+ if yes %}b{% endif +%}\nc",
    "{{ 'a' }}\nb", "{{ 'a' -}}\n  b", "a  {{- 'b' }}", "a\n  {# note #}\nb", "a {#- note -#} b", "{# {{ not }} #}z", "\n\n{{ n }}\n\n", "{% raw %}{{ n }} {% if %}{% endraw %}", "  {%- raw -%}  a  {%- endraw -%}  b",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ m.role }};{% endfor %}",
    "{% for i in list if i > 1 %}{{ loop.index }}:{{ i }} {% else %}none{% endfor %}", "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in list if i > 9 %}x{% else %}none{% endfor %}",
    "{% for k, v in dict.items() %}{{ k }}={{ v }},{% endfor %}", "{% for k in dict %}{{ k }},{% endfor %}", "{% for c in 'häl' %}[{{ c }}]{% endfor %}", "{% for i in list %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }}{% endfor %}",
    "{% for i in list %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in list %}{% for j in list %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% set a = 1 %}{% for i in list %}{% set a = i %}{% endfor %}{{ a }}", "{% set ns = namespace(a=1, b='x') %}{% for i in list %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}", "{% if yes %}{% set a = 5 %}{% endif %}{{ a }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set t = 1, 2 %}{{ t }}", "{% set a %}in {{ n }}{% endset %}[{{ a }}]", "{% set a | upper %}in {{ n }}{% endset %}[{{ a }}]", "{% filter upper %}in {{ n }}{% endfilter %}",
    "{% if no %}a{% elif n == 7 %}b{% else %}c{% endif %}", "{% if no %}a{% elif no %}b{% else %}c{% endif %}", "{% if no %}a{% elif yes %}{% if no %}x{% else %}y{% endif %}{% endif %}",
    "{% macro f(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=4, a=5) }}{{ f('x') | length }}", "{% set g = 3 %}{% macro f() %}{{ g }}{{ n }}{% endmacro %}{{ f() }}", "{% macro f(k) %}{% if k %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}", "{% generation %}text {{ n }}{% endgeneration %}", "{{ zzz }}[{{ zzz|length }}]{% for i in zzz %}x{% endfor %}", "{{ 'a' 'b' }}", "{{ {'a': {'b': 1}}.a.b }}{{ {'a': 1}['a'] }}",
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' and m.content is string %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{{ raise_exception('no way') }}", "{{ zzz.a }}", "{{ zzz + 1 }}", "{{ 1 + 'a' }}", "{{ 1 / 0 }}", "{{ nothing.a.b }}", "{{ n() }}", "{{ 'a'|nofilter }}", "{% if %}", "{{ 1", "{% for %}", "{% endif %}", "{{ 'a }}", "{% if yes %}a", "{# open", "{{ a b }}", "{% unknown %}", "{{ [1, }}",
    "{{ 'a' < 1 }}", "{{ list.append(4) }}", "{{ 3 in 5 }}", "{% set dict.a = 1 %}", "line\r\nends\r\n{% if yes %}\r\nx\r\n{% endif %}\r\n",
]


def main():
    cases = []
    for text in ["[{{ %s }}]" % e.strip() for line in EXPRESSIONS.splitlines() for e in line.split(" | ")] + TEMPLATES:
        try:
            cases.append({"template": text, "text": _compile_jinja_template(text).render(**VARS)})
        except Exception as e:  # jinja2's errors are of many classes; that there is one is what counts
            cases.append({"template": text, "error": str(e)[:80]})
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden", "jinja")
    with open(os.path.join(root, "cases.json"), "w", encoding="utf-8") as f:
        json.dump({"vars": VARS, "cases": cases}, f, indent=0, ensure_ascii=False)
        f.write("\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


main()
