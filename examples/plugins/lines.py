#!/usr/bin/env python3
"""A source: the lines of a file that grows, as inserts. A position is a place in the file."""
import json
import sys
import time


def position(place):
    return {"token": {"path": path, "at": place}, "time": {"$timestamp": {"t": place + 1, "i": 1}}}


def begin(start, token):
    if start == "position" and token.get("path") != path:
        return 0, {"error": {"kind": "operator", "message": "the position is one of another file"}}
    place = int(token["at"]["$numberInt"]) if start == "position" else file.seek(0, 2 if start == "now" else 0)
    return place, {"position": position(place)}


def read(place, deadline):
    events = []
    while not events and time.monotonic() < deadline:
        file.seek(place)
        while len(events) < 1000 and (text := file.readline()).endswith(b"\n"):
            key, place = {"_id": place}, place + len(text)
            events.append({"op": "insert", "ns": "files.lines", "time": position(place)["time"], "key": key,
                           "after": {**key, "line": text.decode(errors="replace").rstrip("\n")}})
        time.sleep(0 if events else 0.05)
    return place, {"events": events, "end": position(place)}


for line in sys.stdin:
    ask, answer = json.loads(line), {}
    if ask["call"] == "hello":
        path, answer = ask["options"]["path"], {"protocol": 1, "name": "lines.py 1.0"}
        file = open(path, "rb")
    elif ask["call"] == "open":
        at, answer = begin(ask["start"], ask.get("from", {}).get("token"))
    elif ask["call"] == "next":
        at, answer = read(at, time.monotonic() + ask["wait"] / 1000)
    print(json.dumps({"id": ask["id"], **answer}), flush=True)
