//! The query of a URL: its parameters, percent-decoded.

/// The parameters in their order, names and values decoded; those that do not decode to UTF-8 are left out.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name)?, decoded(value)?))
    })
}

/// The first value of the parameter with this name.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    decoded(query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?)
}

fn decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                decoded.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            b'+' => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_be_repeated() {
        let found: Vec<_> =
            parameters("sub=alice+b&claim=room=42&&claim=r%3D%5B%221%22%5D&flag&bad=%ff&%zz=1").collect();
        let expected = [("sub", "alice b"), ("claim", "room=42"), ("claim", "r=[\"1\"]"), ("flag", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn the_first_value_of_a_whole_name_is_found() {
        for (query, value) in [
            ("connect=1", Some("1")),
            ("a=1&connect=%31&connect=2", Some("1")),
            ("reconnect=1&connected=2", None),
            ("connect", None),
            ("connect=%4", None),
            ("", None),
        ] {
            assert_eq!(parameter(query, "connect").as_deref(), value, "{query}");
        }
    }
}
