//! `drawbridge completions` and `drawbridge man`: made from the definitions of the command line, so that they cannot differ.

use std::io::{self, Write};

use clap::CommandFactory as _;

use super::{DONE, ExitStatus, REFUSED};
use crate::cli::Cli;

const NAME: &str = "drawbridge";

/// Prints a completion script for this shell.
///
/// # Errors
/// Where it cannot be written.
pub fn completions(shell: clap_complete::Shell, out: &mut dyn Write) -> io::Result<ExitStatus> {
    // Why: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    out.write_all(&script)?;
    Ok(DONE)
}

/// Prints the manual page of the program, or of one command, in roff.
///
/// # Errors
/// Where it cannot be written.
pub fn man(command: Option<&str>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<ExitStatus> {
    let mut program = Cli::command();
    // Why: this names the commands' pages after the program.
    program.build();
    let page = match command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(found) => found.clone(),
            None => {
                let names: Vec<&str> = program.get_subcommands().map(clap::Command::get_name).collect();
                writeln!(
                    err,
                    "drawbridge man: there is no command `{name}`; there are {}",
                    names.join(", ")
                )?;
                return Ok(REFUSED);
            }
        },
    };
    clap_mangen::Man::new(page).render(out)?;
    Ok(DONE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_command_is_completed_in_every_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut script = Vec::new();
            assert_eq!(completions(shell, &mut script).unwrap(), DONE);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    fn page(command: Option<&str>) -> (ExitStatus, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = man(command, &mut out, &mut err).unwrap();
        (status, String::from_utf8(out).unwrap() + &String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_manual_names_every_command_and_a_commands_page_its_options() {
        let (status, text) = page(None);
        assert_eq!(status, DONE);
        for command in Cli::command().get_subcommands() {
            assert!(text.contains(&command.get_name().replace('-', "\\-")), "{}", command.get_name());
        }
        let (status, text) = page(Some("serve"));
        assert!(status == DONE && text.contains("drawbridge\\-serve") && text.contains("SIGHUP"), "{text}");
        let (status, text) = page(Some("srve"));
        assert!(status == REFUSED && text.contains("check-config"), "{text}");
    }
}
