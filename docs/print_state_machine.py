"""Prints docs/state-machine.md from the library's own table, and its picture.

Run it as ``python docs/print_state_machine.py > docs/state-machine.md``, and as
``python docs/print_state_machine.py --picture > docs/state-machine.svg``.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator

from trio_smtp.protocol.machine import TRANSITIONS, State
from trio_smtp.protocol.verbs import Verb

INTRODUCTION = """\
# The state machine

Printed by [`print_state_machine.py`](print_state_machine.py) from `TRANSITIONS` in `trio_smtp.protocol.machine`.

A command that has no cell in the column of the present state is answered by 503, and the state stays. It also stays
when the command is refused. The end of data, the last chunk and the end of an AUTH exchange move the state whatever
the reply; the replies 221, 421 and 521 lead to CLOSED from everywhere. What is not order (TLS first, AUTH first,
sizes, counts) is no cell here: it has replies of its own.
"""


#: Where a state's box is in the picture: left, top, width, height.
BOXES = {
    State.CONNECTED: (405, 20, 130, 40),
    State.GREETED: (405, 105, 130, 50),
    State.TLS: (45, 105, 130, 50),
    State.READY: (405, 205, 130, 70),
    State.AUTH: (45, 205, 130, 42),
    State.MAIL: (405, 320, 130, 40),
    State.RCPT: (405, 405, 130, 40),
    State.DATA: (335, 500, 110, 40),
    State.BDAT: (495, 500, 110, 40),
    State.CLOSED: (730, 105, 90, 435),
}
#: The way of an arrow, and where its text begins. What leads back to READY shares a line on the left.
ARROWS = {
    (State.CONNECTED, State.GREETED): ("M440 60 V105", (448, 87)),
    (State.GREETED, State.READY): ("M470 155 V205", (478, 198)),
    (State.GREETED, State.TLS): ("M405 118 H175", (262, 113)),
    (State.GREETED, State.CONNECTED): ("M505 105 V60", (513, 87)),
    (State.GREETED, State.CLOSED): ("M535 130 H730", (650, 125)),
    (State.READY, State.TLS): ("M425 205 V180 H110 V155", (262, 175)),
    (State.READY, State.AUTH): ("M405 215 H175", (275, 210)),
    (State.READY, State.MAIL): ("M470 275 V320", (478, 302)),
    (State.READY, State.CONNECTED): ("M535 218 H610 V40 H535", (618, 60)),
    (State.READY, State.CLOSED): ("M535 240 H730", (650, 235)),
    (State.AUTH, State.READY): ("M175 235 H405", (260, 230)),
    (State.MAIL, State.READY): ("M405 340 H205 V262 H405", (222, 335)),
    (State.MAIL, State.RCPT): ("M470 360 V405", (478, 387)),
    (State.MAIL, State.CLOSED): ("M535 340 H730", (650, 335)),
    (State.RCPT, State.READY): ("M405 425 H205 V262 H405", (222, 420)),
    (State.RCPT, State.DATA): ("M425 445 V500", (385, 477)),
    (State.RCPT, State.BDAT): ("M515 445 V500", (523, 477)),
    (State.RCPT, State.CLOSED): ("M535 425 H730", (650, 420)),
    (State.DATA, State.READY): ("M335 520 H205 V262 H405", (232, 515)),
    (State.BDAT, State.READY): ("M550 540 V575 H205 V262 H405", (222, 570)),
    (State.BDAT, State.CLOSED): ("M605 520 H730", (650, 515)),
    (State.TLS, State.GREETED): ("M175 140 H405", (250, 135)),
}
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f }
.state { font-weight: 600; text-anchor: middle; dominant-baseline: central }
rect { fill: #eef4fb; stroke: #5b7fa6; rx: 8px }
.page { fill: #fff; stroke: #d1d9e0 }
path { fill: none; stroke: #6e7781; marker-end: url(#head) }
marker path { fill: #6e7781; stroke: none; marker-end: none }
@media (prefers-color-scheme:dark) {
  text { fill: #e6edf3 } rect { fill: #1b2a3b; stroke: #7aa2cc }
  .page { fill: #0d1117; stroke: #3d444d } path { stroke: #9aa4ae } marker path { fill: #9aa4ae }
}"""


def page() -> str:
    """The whole page."""
    picture = "![The states as boxes, and the commands that lead from one to another](state-machine.svg)"
    return "\n".join([INTRODUCTION, "## Diagram\n", picture, "", "## Table\n", *table(), ""])


def moves() -> Iterator[tuple[State, State, str]]:
    """From where to where, and by what; what stays where it is shows in the table alone."""
    for state, row in TRANSITIONS.items():
        verbs: defaultdict[State, list[str]] = defaultdict(list)
        for verb, following in row.items():
            if following is not state and verb is not Verb.QUIT:
                verbs[following].append(shown(verb))
        yield from ((state, following, ", ".join(names)) for following, names in verbs.items())
        if Verb.QUIT in row:
            yield state, State.CLOSED, "QUIT"


def picture() -> str:
    """The table as an SVG: a box for each state, an arrow for each move."""
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="840" height="595" viewBox="0 0 840 595" role="img">',
        f"<title>The state machine</title><style>{STYLE}</style>",
        '<rect class="page" width="840" height="595"/>',
        '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z"/></marker>',
    ]
    for start, end, text in moves():
        way, (x, y) = ARROWS[start, end]
        lines += [f'<path d="{way}"/>', f'<text x="{x}" y="{y}">{text}</text>']
    for state, (x, y, width, height) in BOXES.items():
        lines += [
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}"/>',
            f'<text class="state" x="{x + width / 2:g}" y="{y + height / 2:g}">{state.value}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def table() -> list[str]:
    """A row for each verb, a column for each state that knows one."""
    states = [state for state, row in TRANSITIONS.items() if row]
    lines = ["| | " + " | ".join(state.value for state in states) + " |", "|---" * (len(states) + 1) + "|"]
    for verb in Verb:
        cells = []
        for state in states:
            following = TRANSITIONS[state].get(verb)
            if verb is Verb.QUIT and following is not None:
                following = State.CLOSED
            cells.append("" if following is None else following.value)
        lines.append(f"| {shown(verb)} | " + " | ".join(cells) + " |")
    return lines


def shown(verb: Verb) -> str:
    """A verb, or an event that is no command, without what Markdown and SVG take for markup."""
    return verb.value.strip("<>")


if __name__ == "__main__":
    sys.stdout.write(picture() if "--picture" in sys.argv else page())
