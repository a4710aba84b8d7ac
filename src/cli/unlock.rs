//! How the vault is unlocked: a passphrase from a file, from stdin or from a prompt, or the key file.

use std::io::{IsTerminal, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::Context;
use crate::control::{ControlError, ErrorCode};
use crate::node::wrong;
use crate::vault::store::{Unlock, Vault, refuse_open};

/// Longest passphrase file.
const MAX: u64 = 64 * 1024;

/// What the arguments say; asks on the terminal where a vault needs a passphrase and none was given.
pub fn unlock(context: &Context) -> Result<Unlock, ControlError> {
    let args = &context.args;
    if let Some(file) = &args.passphrase_file {
        return passphrase_from(file).map(Unlock::Passphrase);
    }
    if args.keyfile.is_none() && Vault::needs_passphrase(&context.home.vault_file()) {
        if !std::io::stdin().is_terminal() {
            let what = "the vault is locked by a passphrase: give --passphrase-file FILE";
            return Err(ControlError::new(ErrorCode::Locked, what));
        }
        let typed = rpassword::prompt_password("Passphrase of the vault: ").map_err(ControlError::failed)?;
        return Ok(Unlock::Passphrase(Zeroizing::new(typed)));
    }
    let named = match &args.keyfile {
        Some(file) => Some(file.clone()),
        None => context.settings()?.node.keyfile,
    };
    Ok(Unlock::KeyFile(named.unwrap_or_else(|| context.home.key_file())))
}

/// What shall unlock the vault from now on: asks twice on the terminal where no file was given.
pub fn new_unlock(passphrase_file: Option<&Path>, keyfile: Option<&Path>) -> Result<Unlock, ControlError> {
    if let Some(file) = keyfile {
        return Ok(Unlock::KeyFile(file.into()));
    }
    if let Some(file) = passphrase_file {
        return passphrase_from(file).map(Unlock::Passphrase);
    }
    if !std::io::stdin().is_terminal() {
        return Err(ControlError::invalid("give --new-passphrase-file FILE or --new-keyfile FILE"));
    }
    let ask = |prompt| rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(ControlError::failed);
    let (first, second) = (ask("New passphrase: ")?, ask("The same again: ")?);
    if *first != *second {
        return Err(ControlError::invalid("these are not the same: nothing was changed"));
    }
    Ok(Unlock::Passphrase(first))
}

/// The first line of a file, or of stdin for `-`.
fn passphrase_from(file: &Path) -> Result<Zeroizing<String>, ControlError> {
    let mut text = Zeroizing::new(String::new());
    let failed = |error| ControlError::failed(format!("the passphrase file {}: {error}", file.display()));
    let read = if file == Path::new("-") {
        std::io::stdin().take(MAX).read_to_string(&mut text)
    } else {
        let from = std::fs::File::open(file).map_err(failed)?;
        refuse_open(file, &from.metadata().map_err(failed)?).map_err(wrong)?;
        from.take(MAX).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(ControlError::invalid(format!("the passphrase file {} is empty", file.display())));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
