//! The way out of a terminal whose command does not answer, as in ssh(1): at the beginning of a line, the escape character
//! and a dot. Twice the escape character is the character itself.

/// Reads what is typed.
#[derive(Debug)]
pub(crate) struct Escape {
    character: Option<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineBegin,
    /// The escape character was typed and held back.
    Escaped,
    Inside,
}

/// What becomes of something that was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// What the command gets.
    pub(crate) text: Vec<u8>,
    /// Whether the user wants to leave.
    pub(crate) leaves: bool,
}

impl Escape {
    /// Without a character everything is the command's.
    pub(crate) fn new(character: Option<u8>) -> Self {
        Self { character, state: State::LineBegin }
    }

    /// Takes what was typed next.
    pub(crate) fn read(&mut self, typed: &[u8]) -> Typed {
        let Some(character) = self.character else { return Typed { text: typed.to_vec(), leaves: false } };
        let mut text = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            match self.state {
                State::Escaped if *byte == b'.' => return Typed { text, leaves: true },
                State::LineBegin if *byte == character => {
                    self.state = State::Escaped;
                    continue;
                }
                // It was no escape sequence: what was held back goes first.
                State::Escaped if *byte != character => text.push(character),
                _ => {}
            }
            text.push(*byte);
            // Return gives a carriage return in raw mode; what is pasted may have newlines.
            self.state = if matches!(byte, b'\r' | b'\n') { State::LineBegin } else { State::Inside };
        }
        Typed { text, leaves: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(pieces: &[&str], character: Option<u8>) -> (String, bool) {
        let mut escape = Escape::new(character);
        let mut all = Vec::new();
        for piece in pieces {
            let Typed { text, leaves } = escape.read(piece.as_bytes());
            all.extend(text);
            if leaves {
                return (String::from_utf8(all).expect("text"), true);
            }
        }
        (String::from_utf8(all).expect("text"), false)
    }

    #[test]
    fn a_dot_after_the_escape_at_the_beginning_of_a_line_leaves() {
        for (pieces, text, leaves) in [
            (&["~."][..], "", true),
            (&["ls\r~."], "ls\r", true),
            (&["ls\r", "~", "."], "ls\r", true),
            (&["ls\n~.more"], "ls\n", true),
            (&["a~."], "a~.", false),
            (&["~~."], "~.", false),
            (&["~/bin\r"], "~/bin\r", false),
            (&["~", "a"], "~a", false),
            (&["x\r~\r~."], "x\r~\r", true),
        ] {
            assert_eq!(typed(pieces, Some(b'~')), (text.to_owned(), leaves), "{pieces:?}");
        }
        assert_eq!(typed(&["~.", "\r~."], None), ("~.\r~.".to_owned(), false));
        assert_eq!(typed(&["~.\r%."], Some(b'%')), ("~.\r".to_owned(), true));
    }
}
