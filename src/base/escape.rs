//! What peers name, made safe for a terminal: control characters, bidirectional controls and bytes that are not
//! UTF-8 are shown as escapes, so that a name can neither move the cursor nor dress up as another.

use std::path::Path;

/// `name` with everything that a terminal could act on replaced by `\x..` or `\u{..}`.
pub fn for_terminal(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for part in name.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() || is_deceptive(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        for byte in part.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The same of a path of this machine, a part of which a peer may have named.
pub fn path_for_terminal(path: &Path) -> String {
    for_terminal(path.as_os_str().as_encoded_bytes())
}

/// Zero-width and bidirectional controls (Unicode's `Bidi_Control` and kin).
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(for_terminal(b"plain.txt"), "plain.txt");
        assert_eq!(for_terminal("größe".as_bytes()), "größe");
        assert_eq!(for_terminal(b"a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(for_terminal("exe\u{202e}txt".as_bytes()), "exe\\u{202e}txt");
        assert_eq!(for_terminal(b"\xff\n"), "\\xff\\u{a}");
    }
}
