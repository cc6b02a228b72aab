//! What is installed beside a program: its page of the manual, and what shells offer at TAB. Takes
//! the program's flags and returns text; so what is installed is true of what is built.

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use std::{
    io::{self, Write as _},
    process::ExitCode,
};

/// Run by the system and for all its users: its page is in the section of such programs (man(1)).
const DAEMON: &str = "mvirt-net";

/// What `--generate` may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// The page of the manual
    Man,
    /// The completions of bash
    Bash,
    /// The completions of zsh
    Zsh,
    /// The completions of fish
    Fish,
}

impl Generated {
    /// Prints it for the program of that name and command; returns what it ends with.
    pub fn print(self, program: &'static str, command: Command) -> ExitCode {
        let printed = self.text(program, command).and_then(|text| io::stdout().write_all(&text));
        printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
    }

    fn text(self, program: &'static str, command: Command) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let shell = match self {
            Self::Man => {
                let page = clap_mangen::Man::new(command);
                page.section(if program == DAEMON { "8" } else { "1" }).render(&mut text)?;
                return Ok(text);
            }
            Self::Bash => Shell::Bash,
            Self::Zsh => Shell::Zsh,
            Self::Fish => Shell::Fish,
        };
        // Without the flags that its help does not have: shells would offer them, too.
        let mut offered = Command::new(program)
            .version(env!("CARGO_PKG_VERSION"))
            .disable_help_flag(command.is_disable_help_flag_set())
            .args(command.get_arguments().filter(|flag| !flag.is_hide_set()));
        clap_complete::generate(shell, &mut offered, program, &mut text);
        Ok(text)
    }
}
