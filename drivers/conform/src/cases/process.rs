//! What runs inside, told by its exit code.

use crate::ask::Ask as _;
use crate::stage::Stage;
use crate::verdict::{Verdict, equal, wrong_code};

/// Text that a shell, a line or a byte limit would change.
const HARD: &str = " two  spaces, 'quotes\" $HOME `id` \\ größe 工作 🦀\nanother line\t";

pub(crate) async fn exit_code_is_told(stage: &Stage) -> Verdict {
    let sandbox = stage.script("exit 23", &[])?;
    equal("the exit code of a process that exits with 23", &stage.exit_code(&sandbox).await?, &23)
}

/// The text as a shell reads it: in single quotes nothing has a meaning but their end.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

pub(crate) async fn environment_arrives(stage: &Stage) -> Verdict {
    let script = format!(
        r#"[ "${{CONFORM_SPEC-absent}}" = {hard} ] || exit 31
        [ "${{CONFORM_TEMPLATE-absent}}" = {hard} ] || exit 32
        [ "${{CONFORM_EMPTY-absent}}" = "" ] || exit 33
        exit 21"#,
        hard = quoted(HARD)
    );
    let sandbox = stage
        .script(&script, &[])?
        .variable("CONFORM_SPEC", HARD)
        .variable("CONFORM_EMPTY", "")
        .with(|ask| drop(ask.template().environment.insert("CONFORM_TEMPLATE".to_owned(), HARD.to_owned())));
    wrong_code(
        stage.exit_code(&sandbox).await?,
        21,
        &[
            (31, "the variable of environment is not what the request says"),
            (32, "the variable of template.environment is not what the request says"),
            (33, "the empty variable is missing or not empty"),
        ],
    )
}

pub(crate) async fn arguments_arrive(stage: &Stage) -> Verdict {
    let script = format!(
        r#"[ "$#" = 4 ] || exit 31
        [ "$1" = "" ] || exit 32
        [ "$2" = "two words" ] || exit 33
        [ "$3" = {hard} ] || exit 34
        [ "$4" = "-rf" ] || exit 35
        exit 22"#,
        hard = quoted(HARD)
    );
    let sandbox = stage.script(&script, &["", "two words", HARD, "-rf"])?;
    wrong_code(
        stage.exit_code(&sandbox).await?,
        22,
        &[
            (31, "there are more or fewer arguments than in the request"),
            (32, "an empty argument is not empty"),
            (33, "an argument with a space is another one"),
            (34, "an argument with quotes, line breaks and letters of other scripts is another one"),
            (35, "the last argument is another one"),
        ],
    )
}
