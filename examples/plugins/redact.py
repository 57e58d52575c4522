#!/usr/bin/env python3
"""A transform: masks e-mail addresses, drops a collection, refuses what it must not let through."""
import json
import sys

hidden = []


def mask(event):
    if event["ns"].endswith(".audit"):
        return False                                    # the event is dropped
    found = False
    for part in ("after", "before"):
        for field in hidden:
            if field in event.get(part, {}):
                event[part][field], found = "***", True
    if "change" in event and any(field in json.dumps(event["change"]) for field in hidden):
        return {"bad": "an update of a hidden field"}   # on_bad_event decides
    return {"event": event} if found else True          # True: left as it is


for line in sys.stdin:
    ask = json.loads(line)
    answer = {"id": ask["id"]}
    if ask["call"] == "hello":
        hidden = ask["options"]["fields"]
        answer.update(protocol=1, name="redact.py 1.0")
    elif ask["call"] == "transform":
        answer["events"] = [mask(event) for event in ask["events"]]
    print(json.dumps(answer), flush=True)
