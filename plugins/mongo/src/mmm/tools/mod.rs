//! `oplogue conflicts` and `oplogue verify`. See `docs/cli.md`.

mod conflicts;
mod links;
mod list;
mod redrive;
mod show;
mod text;
mod verify;
mod write;

use oplogue_api::{Action, Argument, ArgumentKind::*, Registry, Tool};

const ROUTES: Argument = Argument::new("route", Rest, "ROUTE", "The routes; all that replicate when absent");
const NS: Argument = Argument::new("ns", Values, "GLOB", "Only these namespaces, such as 'app.*'");
const KIND: Argument = Argument::new("kind", Values, "KIND", "Only conflicts of this kind, such as update-update");
const STATUS: Argument = Argument::new("status", Values, "resolved|parked|redriven", "Only conflicts with this status");
const SINCE: Argument =
    Argument::new("since", Value, "TIME", "Only conflicts since then: 2h, 7d, or 2026-11-21T10:00:00Z");
const JSON: Argument = Argument::new("json", Flag, "", "JSON, one object a line, on a terminal too");

const CONFLICTS: &[Action] = &[
    Action {
        name: "list",
        summary: "Lists conflicts, the newest first",
        arguments: &[
            ROUTES,
            NS,
            KIND,
            STATUS,
            SINCE,
            Argument::new("limit", Value, "N", "At most so many; 50 when absent"),
            JSON,
        ],
    },
    Action {
        name: "show",
        summary: "Shows a conflict with both versions of the document",
        arguments: &[Argument::new("id", Positional, "ID", "The conflict, as `list` shows it").required(), JSON],
    },
    Action {
        name: "redrive",
        summary: "Writes the chosen version at the peer, as a new change that replicates",
        arguments: &[
            Argument::new("id", Positional, "ID", "The conflict, as `list` shows it"),
            Argument::new(
                "winner",
                Value,
                "local|remote",
                "Which version: what the peer had, or what came. For a parked conflict, what came when absent",
            ),
            Argument::new(
                "all",
                Flag,
                "",
                "All parked conflicts, or those with --status, that the filters let through",
            ),
            NS,
            KIND,
            STATUS,
            SINCE,
        ],
    },
    Action {
        name: "purge",
        summary: "Removes old conflicts; parked ones only with --status parked",
        arguments: &[
            Argument::new("older-than", Value, "PERIOD", "Those older than this, such as 30d").required(),
            ROUTES,
            STATUS,
        ],
    },
];

const VERIFY: &[Action] = &[Action {
    name: "",
    summary: "",
    arguments: &[
        ROUTES,
        NS,
        Argument::new("repair", Flag, "", "Makes differing documents equal, by the policy of the routes"),
        Argument::new("rate", Value, "SIZE/s", "Reads at most so much from both ends together, such as 20MB/s"),
        Argument::new("wait", Value, "PERIOD", "How long to wait for changes on their way; 5m when absent"),
        Argument::new("settle", Value, "PERIOD", "A link that has not moved for so long is idle; 10s when absent"),
        JSON,
    ],
}];

pub(super) fn register(r: &mut Registry) {
    r.tool(Tool {
        name: "conflicts",
        summary: "Lists, shows, redrives and purges the conflicts of replicated deployments",
        help: "",
        actions: CONFLICTS,
        run: Box::new(conflicts::Conflicts),
    });
    r.tool(Tool {
        name: "verify",
        summary: "Compares both ends of replicating routes, and repairs them",
        help: "The _id of each document that differs goes to stdout. Exit codes: 0 equal (or repaired), 1 differing, or failed.",
        actions: VERIFY,
        run: Box::new(verify::Verify),
    });
}
