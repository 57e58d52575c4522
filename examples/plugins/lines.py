#!/usr/bin/env python3
"""A source: the lines of a file that grows, as inserts. A position is a place in the file."""
import json
import sys
import time

start, at = None, 0


def position(place):
    return {"token": {"path": path, "at": place}, "time": {"$timestamp": {"t": place + 1, "i": 1}}}


def begin(ask):
    if ask["start"] == "position" and ask["from"]["token"].get("path") != path:
        return at, {"error": {"kind": "operator", "message": "the position is one of another file",
                              "hint": "reset the position: oplogue position reset"}}
    place = {"position": lambda: int(ask["from"]["token"]["at"]["$numberInt"]),
             "configured": lambda: 0, "now": lambda: file.seek(0, 2)}[ask["start"]]()
    return place, {"position": position(place)}


def read(ask):
    events, place, deadline = [], at, time.monotonic() + ask["wait"] / 1000
    while not events and time.monotonic() < deadline:
        file.seek(place)
        for line in iter(file.readline, b""):
            if not line.endswith(b"\n") or len(events) == 1000:
                break
            key, place = {"_id": place}, place + len(line)
            events.append({"op": "insert", "ns": "files.lines", "time": position(place)["time"], "key": key,
                           "after": {**key, "line": line.decode(errors="replace").rstrip("\n")}})
        if not events:
            time.sleep(0.05)
    return place, {"events": events, "end": position(place)}


for line in sys.stdin:
    ask, answer = json.loads(line), {}
    if ask["call"] == "hello":
        path = ask["options"]["path"]
        file, answer = open(path, "rb"), {"protocol": 1, "name": "lines.py 1.0"}
    elif ask["call"] in ("open", "next"):
        at, answer = (begin if ask["call"] == "open" else read)(ask)
    print(json.dumps({"id": ask["id"], **answer}), flush=True)
