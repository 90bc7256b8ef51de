//! A service that sends its clients elsewhere.

use ringspan::control::discovery::{CallError, Event, RedirectError};
use ringspan_tests::discovery::{Calls, DiscoveryServer, Options};

use crate::common::{next, observer, server, stored, until_member};

fn disconnected(event: Event) -> Option<CallError> {
    match event {
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    }
}

#[test]
fn a_redirect_is_followed() {
    let right = server();
    right.update(stored("a").into_request()).unwrap();
    let wrong = DiscoveryServer::start(Options {
        redirect: Some(right.address().to_string()),
        ..Options::default()
    })
    .unwrap();
    let observer = observer(&wrong);
    let url = right.url();
    assert_eq!(next(&observer, disconnected), CallError::Redirected { url });
    until_member(&observer, "a");
    assert_eq!(
        wrong.calls(),
        Calls {
            hello: 1,
            ..Calls::default()
        }
    );
    // The right one goes away: the configured one is asked again.
    drop(right);
    wrong.update(stored("b").into_request()).unwrap();
    wrong.redirect(None);
    until_member(&observer, "b");
}

#[test]
fn a_circle_is_left() {
    let server = server();
    server.redirect(Some(server.address().to_string()));
    let observer = observer(&server);
    let mut followed = 0;
    loop {
        match next(&observer, disconnected) {
            CallError::Redirected { .. } => followed += 1,
            CallError::Redirect(RedirectError::TooMany) => break,
            other => panic!("{other}"),
        }
    }
    assert_eq!(followed, 5);
    server.redirect(None);
    next(&observer, |event| {
        (event == Event::Synchronized).then_some(())
    });
}

#[test]
fn a_redirect_to_nowhere_is_not_followed() {
    let server = server();
    server.redirect(Some("file:///etc/passwd".into()));
    let observer = observer(&server);
    let reason = next(&observer, disconnected);
    assert!(matches!(
        reason,
        CallError::Redirect(RedirectError::Malformed(_))
    ));
    server.redirect(None);
    next(&observer, |event| {
        (event == Event::Synchronized).then_some(())
    });
}
