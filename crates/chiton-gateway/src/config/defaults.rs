//! The commented default config.

/// A config file with every setting in comments, at its default or as an example: it loads as it is, and changes
/// nothing until a line is uncommented. For `chiton config show --default` and the manual.
pub fn default_config_text() -> &'static str {
    include_str!("default.toml")
}
