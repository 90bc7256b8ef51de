//! The command line that all benches have: `[--quick] [--rounds N] [WORD…]`.

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Few rounds and fewer cases.
    pub quick: bool,
    /// How often each contender takes its turn.
    pub rounds: usize,
    words: Vec<String>,
}

impl Options {
    /// Reads the command line. `rounds` is the default, and that of `--quick`. A wrong command line
    /// ends the process with status 2.
    #[must_use]
    pub fn from_args(rounds: usize, quick: usize) -> Self {
        Self::parse(std::env::args().skip(1), rounds, quick).unwrap_or_else(|error| {
            eprintln!("error: {error}\nusage: [--quick] [--rounds N] [WORD…], words select cases");
            std::process::exit(2);
        })
    }

    fn parse(
        mut args: impl Iterator<Item = String>,
        rounds: usize,
        quick: usize,
    ) -> Result<Self, String> {
        let mut options = Self {
            quick: false,
            rounds: 0,
            words: Vec::new(),
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--quick" => options.quick = true,
                "--rounds" => {
                    let number = args.next().unwrap_or_default();
                    options.rounds = number
                        .parse()
                        .ok()
                        .filter(|rounds| *rounds > 0)
                        .ok_or_else(|| {
                            format!("--rounds {number:?}: how often each takes its turn, 1 or more")
                        })?;
                }
                "--bench" => {} // what cargo passes
                flag if flag.starts_with('-') => return Err(format!("{flag}: no such option")),
                word => options.words.push(word.to_owned()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { quick } else { rounds };
        }
        Ok(options)
    }

    /// Whether the case of this name is wanted: words select those that contain one of them.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, String> {
        Options::parse(words.split_whitespace().map(str::to_owned), 101, 15)
    }

    #[test]
    fn words_select_cases_and_what_is_unknown_is_refused() {
        let options = parse("--bench seal/64 open").unwrap();
        assert!(options.wants("seal/64") && options.wants("open/1420"));
        assert!(!options.wants("seal/1420"));
        assert_eq!(options.rounds, 101);
        assert_eq!(parse("--quick").unwrap().rounds, 15);
        assert_eq!(parse("--quick --rounds 3").unwrap().rounds, 3);
        assert!(parse("--rounds many").unwrap_err().contains("many"));
        assert!(parse("--rounds").is_err());
        assert!(parse("--fast").unwrap_err().contains("--fast"));
    }
}
