//! The one binary: everything is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    flashget::cli::run()
}
