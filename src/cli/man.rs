//! `man`: the manual pages of section 1, made from the same definition as `--help`. `mount.flashget.8` is written by hand,
//! in `dist/man/`, as its arguments are mount(8)'s.

use std::path::Path;

use clap::CommandFactory;

use super::args::Args;
use crate::control::ControlError;

/// `flashget man DIR`: `flashget.1`, and a page for each command that is not hidden.
pub fn write(dir: &Path) -> Result<(), ControlError> {
    let wrong = |error| ControlError::failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(wrong)?;
    clap_mangen::generate_to(Args::command(), dir).map_err(wrong)?;
    for entry in std::fs::read_dir(dir).map_err(wrong)? {
        let file = entry.map_err(wrong)?.path();
        if file.extension().is_some_and(|extension| extension == "1") {
            let page = std::fs::read_to_string(&file).map_err(wrong)?;
            std::fs::write(&file, keep_lines(&page)).map_err(wrong)?;
        }
    }
    Ok(())
}

/// Texts with indented lines are tables and examples: the lines of such a one are kept as they are (`.nf` to `.fi`), where
/// roff would fill them up. Lines that begin with a dot are roff's own.
fn keep_lines(page: &str) -> String {
    let lines: Vec<&str> = page.lines().collect();
    let mut kept = String::with_capacity(page.len());
    for text in lines.chunk_by(|a, b| a.starts_with('.') == b.starts_with('.')) {
        let table = text.iter().any(|line| line.starts_with("  ")) && !text[0].starts_with('.');
        let around = |mark: &'static str| table.then_some(mark);
        for line in around(".nf").into_iter().chain(text.iter().copied()).chain(around(".fi")) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The names of the pages of a command and of all below it.
    fn pages(command: &clap::Command, name: &str) -> Vec<String> {
        let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
        let below = below.flat_map(|below| pages(below, &format!("{name}-{}", below.get_name())));
        std::iter::once(format!("{name}.1")).chain(below).collect()
    }

    #[test]
    fn every_command_that_is_shown_has_a_page_with_all_its_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("made/for/it");
        write(&into).unwrap();
        let mut made: Vec<_> =
            fs::read_dir(&into).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let mut wanted = pages(&Args::command(), "flashget");
        made.sort();
        wanted.sort();
        assert_eq!(made, wanted);
        assert!(made.contains(&"flashget-share-add.1".into()) && !made.contains(&"flashget-man.1".into()), "{made:?}");
        // In a page, every dash of an option is written `\-`.
        let page = |name: &str| fs::read_to_string(into.join(name)).unwrap().replace('\\', "");
        for (name, says) in [
            ("flashget.1", "flashget-mount(1)"),
            ("flashget.1", "Exit codes"),
            ("flashget-share-add.1", "--hidden"),
            ("flashget-mount.1", "[NETWORK] DIR"),
            ("flashget-mount.1", "cache_size=SIZE"),
            ("flashget-daemon.1", "--advertise"),
        ] {
            assert!(page(name).contains(says), "{name} does not say {says}:\n{}", page(name));
        }
        assert!(!page("flashget-daemon.1").contains("--for-mount"), "an argument that is hidden");
    }

    #[test]
    fn the_lines_of_a_table_were_filled_up() {
        assert_eq!(keep_lines(".TP\na\nb\n"), ".TP\na\nb\n");
        assert_eq!(
            keep_lines(".TP\nSo:\n  a  1\nor:\n  b\n.TP\nc\n"),
            ".TP\n.nf\nSo:\n  a  1\nor:\n  b\n.fi\n.TP\nc\n"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write(&file.join("below")).unwrap_err();
        assert!(error.message.contains("file/below"), "{error}");
    }
}
