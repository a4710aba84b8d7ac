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

/// Characters that change how others are shown, or that are not seen at all: bidirectional controls (Unicode's
/// `Bidi_Control`), and those of `Default_Ignorable_Code_Point` that stand alone, with the fillers among the letters, the
/// annotations and the tags. Variation selectors are left: they belong to emoji.
fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
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

    #[test]
    fn two_names_that_look_the_same_are_told_apart() {
        for unseen in
            ["\u{ad}", "\u{34f}", "\u{1160}", "\u{180e}", "\u{200d}", "\u{206a}", "\u{3164}", "\u{ffa0}", "\u{e0041}"]
        {
            assert!(for_terminal(format!("a{unseen}.iso").as_bytes()).is_ascii(), "{unseen:?}");
        }
        // A heart as it is typed.
        assert_eq!(for_terminal("\u{2764}\u{fe0f}".as_bytes()), "\u{2764}\u{fe0f}");
    }
}
