//! The pages of oplogtoredis: `/healthz` in its form, and `/denylist`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::super::Telemetry;
use crate::{
    denylist::{Changed, Denylist},
    oplogtoredis::go::json_string,
};

/// `/healthz`, any method. Answered from what the routes know, so that it takes no longer when a server hangs.
pub async fn healthz(State(telemetry): State<Arc<Telemetry>>) -> Response {
    let health = telemetry.routes.iter().map(|route| route.health());
    let alive = telemetry.is_alive();
    let (mongo, redis) = health.fold((alive, alive), |(mongo, redis), h| (mongo && h.source, redis && h.sink));
    let code = if mongo && redis { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let body = format!("{{\"mongoOK\":{mongo},\"redisOK\":{redis}}}\n");
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

/// `/denylist`.
pub async fn denylist(State(telemetry): State<Arc<Telemetry>>, method: Method) -> Response {
    match (&telemetry.denylist, method) {
        (Some(list), Method::GET | Method::HEAD) => {
            let names: Vec<String> = list.names().iter().map(|name| json_string(name)).collect();
            json(format!("[{}]\n", names.join(",")))
        }
        _ => error(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// `/denylist/<database>`.
pub async fn denylist_entry(State(telemetry): State<Arc<Telemetry>>, method: Method, uri: Uri) -> Response {
    let Some(list) = &telemetry.denylist else { return error(StatusCode::NOT_FOUND, "404 page not found") };
    let Some(name) = decoded(uri.path().strip_prefix("/denylist/").unwrap_or_default()) else {
        return error(StatusCode::BAD_REQUEST, "the name of the database is not percent-encoded UTF-8");
    };
    if name.contains('/') {
        return error(StatusCode::NOT_FOUND, "404 page not found");
    }
    match method {
        Method::GET | Method::HEAD if list.contains(&name) => json(format!("{}\n", json_string(&name))),
        Method::GET | Method::HEAD => error(StatusCode::NOT_FOUND, "denylist entry not found with that id"),
        Method::PUT => set(list, &name, true, StatusCode::CREATED).await,
        Method::DELETE => set(list, &name, false, StatusCode::NO_CONTENT).await,
        _ => error(StatusCode::NOT_FOUND, "Not Found"),
    }
}

async fn set(list: &Denylist, name: &str, denied: bool, done: StatusCode) -> Response {
    match list.set(name, denied).await {
        Changed::Nothing => StatusCode::NO_CONTENT.into_response(),
        Changed::Kept => done.into_response(),
        Changed::NotKept => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the change holds, but could not be kept yet; that is tried again until it works",
        ),
        Changed::Refused => error(StatusCode::INTERNAL_SERVER_ERROR, "the name is too long, or the list is full"),
    }
}

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn error(code: StatusCode, message: &str) -> Response {
    (code, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{message}\n")).into_response()
}

/// A part of a path without its percent-encoding.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(decoded("a%2Fb%20c+d").as_deref(), Some("a/b c+d"));
        assert_eq!(decoded("").as_deref(), Some(""));
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
