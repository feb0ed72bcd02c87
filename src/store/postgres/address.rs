//! The parameters of `database.url` that sqlx is given. It logs unknown parameters with their values, and some of those
//! are passwords (`sslpassword`); so it gets only those it knows, and our log names the others without their values.

/// The parameters that `PgConnectOptions` reads from a URL's query (sqlx-postgres 0.9, `options/parse.rs`), besides
/// `options[…]`.
const KNOWN: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// The URL without the parameters that sqlx does not know, and their names.
pub(super) fn known(url: &str) -> (String, Vec<&str>) {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    let Some((url, query)) = url.split_once('?') else {
        return (url.to_owned(), Vec::new());
    };
    let name = |pair: &&str| -> bool {
        let name = pair.split('=').next().unwrap_or_default();
        KNOWN.contains(&name) || (name.starts_with("options[") && name.ends_with(']'))
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let (known, unknown): (Vec<&str>, Vec<&str>) = pairs.partition(name);
    let names = unknown
        .into_iter()
        .filter_map(|pair| pair.split('=').next())
        // Parts of a password in which # or ? was not escaped are parsed as parameters: they are not named either.
        .filter(|_| fragment.is_empty() && !query.contains('@'));
    let url = if known.is_empty() {
        url.to_owned()
    } else {
        format!("{url}?{}", known.join("&"))
    };
    (url, names.collect())
}

#[cfg(test)]
mod tests {
    use super::known;

    #[test]
    fn unknown_parameters_are_removed_and_named() {
        for (url, handed, names) in [
            ("postgres://u:p@h/db", "postgres://u:p@h/db", vec![]),
            (
                "postgres://u@h/db?sslmode=verify-full&sslpassword=s3cret&connect_timeout=5",
                "postgres://u@h/db?sslmode=verify-full",
                vec!["sslpassword", "connect_timeout"],
            ),
            (
                "postgres://h/db?options[search_path]=a&password=s&ssl%6Dode=x",
                "postgres://h/db?options[search_path]=a&password=s",
                vec!["ssl%6Dode"],
            ),
            ("postgres://h/db?token", "postgres://h/db", vec!["token"]),
            ("postgres://h/db?&", "postgres://h/db", vec![]),
            ("postgres://h/db?x=1#y", "postgres://h/db", vec![]),
            ("postgres://u:pa?ss=1@h/db", "postgres://u:pa", vec![]),
        ] {
            assert_eq!(known(url), (handed.to_owned(), names), "{url}");
        }
    }
}
