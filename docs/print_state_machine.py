"""Prints docs/state-machine.md from the library's own table.

Run it as ``python docs/print_state_machine.py > docs/state-machine.md``.
"""

import sys
from collections import defaultdict

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


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, "## Diagram\n", *diagram(), "", "## Table\n", *table(), ""])


def diagram() -> list[str]:
    """The table as a mermaid diagram; what stays where it is shows in the table alone."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CONNECTED.value}"]
    for state, row in TRANSITIONS.items():
        verbs: defaultdict[State, list[str]] = defaultdict(list)
        for verb, following in row.items():
            if following is not state and verb is not Verb.QUIT:
                verbs[following].append(shown(verb))
        lines += [f"    {state.value} --> {following.value}: {', '.join(names)}" for following, names in verbs.items()]
        if Verb.QUIT in row:
            lines.append(f"    {state.value} --> {State.CLOSED.value}: QUIT")
    return [*lines, f"    {State.CLOSED.value} --> [*]", "```"]


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
    """A verb, or an event that is no command, without what mermaid and Markdown take for markup."""
    return verb.value.strip("<>")


if __name__ == "__main__":
    sys.stdout.write(page())
