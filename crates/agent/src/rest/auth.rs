use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use pgbaton_api::Reply;
use pgbaton_config::Credentials;

use super::answer::Answer;

/// Checks basic authentication, if it is asked for.
pub(super) fn check(headers: &HeaderMap, wanted: Option<&Credentials>) -> Result<(), Answer> {
    let Some(wanted) = wanted else { return Ok(()) };
    let Some(given) = headers.get(AUTHORIZATION) else { return Err(Reply::NoAuthorization.into()) };
    let expected = STANDARD.encode(format!("{}:{}", wanted.username, wanted.password.reveal()));
    match given.as_bytes().strip_prefix(b"Basic ") {
        Some(given) if same(given, expected.as_bytes()) => Ok(()),
        _ => Err(Reply::WrongAuthorization.into()),
    }
}

/// Compares in a time that does not depend on where the first difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use pgbaton_config::Secret;

    use super::*;

    #[test]
    fn only_the_right_words_pass() {
        let wanted = Credentials { username: "user".to_owned(), password: Secret::new("pass") };
        let with = |text: &'static str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(text))]);
        assert!(check(&HeaderMap::new(), None).is_ok());
        assert!(check(&with("Basic dXNlcjpwYXNz"), Some(&wanted)).is_ok());
        let refused = |headers: &HeaderMap| check(headers, Some(&wanted)).unwrap_err();
        assert_eq!(refused(&HeaderMap::new()), Answer::text(401, "no auth header received"));
        for text in ["Basic dXNlcjpwYXNx", "basic dXNlcjpwYXNz", "Basic ", "Bearer dXNlcjpwYXNz", "dXNlcjpwYXNz"] {
            assert_eq!(refused(&with(text)), Answer::text(401, "not authenticated"), "{text}");
        }
    }
}
