use std::os::unix::fs::PermissionsExt as _;

use chiton_lifecycle::journal::{Commit, Write};
use chiton_store::{SqliteStore, StoreOptions};
use jiff::Timestamp;

use super::*;

async fn store(folder: &Path, actions: &[&str]) -> Arc<dyn Journal> {
    let options = StoreOptions::new(folder.join("store")).expect("facts of this machine");
    let journal: Arc<dyn Journal> = Arc::new(SqliteStore::open(options).expect("a store"));
    note(&journal, actions).await;
    journal
}

async fn note(journal: &Arc<dyn Journal>, actions: &[&str]) {
    for action in actions {
        let record = AuditRecord {
            at: Timestamp::from_second(1_700_000_000).expect("a time"),
            action: (*action).to_owned(),
            subject: "s-1/lease/after_delete".to_owned(),
            by: "uid:0".to_owned(),
            message: "two\nlines".to_owned(),
        };
        let writes = vec![Write::Audit(Box::new(record))];
        journal.commit(Commit { number: 0, checks: Vec::new(), writes }).await.expect("stored");
    }
}

fn events(folder: &Path) -> Vec<(u64, String)> {
    let text = fs::read_to_string(folder.join(AUDIT_FILE)).expect("the file");
    let read = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("one event a line");
        let action = event["metadata"]["event_code"].as_str().expect("text").to_owned();
        (event["metadata"]["sequence"].as_u64().expect("a number"), action)
    };
    text.lines().map(read).collect()
}

fn listed(actions: &[&str]) -> Vec<(u64, String)> {
    (1..).zip(actions.iter().map(|action| (*action).to_owned())).collect()
}

#[tokio::test]
async fn every_record_is_in_the_file_once_over_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = store(folder.path(), &["obligation.discharge", "orphan.delete"]).await;
    let file = AuditFile::new(folder.path(), Arc::clone(&journal));
    file.open().await.expect("written");
    assert_eq!(events(folder.path()), listed(&["obligation.discharge", "orphan.delete"]));
    note(&journal, &["epoch.adopt"]).await;
    file.open().await.expect("written");
    // Another process, which finds the file.
    note(&journal, &["orphan.adopt"]).await;
    AuditFile::new(folder.path(), journal).open().await.expect("written");
    assert_eq!(
        events(folder.path()),
        listed(&["obligation.discharge", "orphan.delete", "epoch.adopt", "orphan.adopt"])
    );
    let mode = fs::metadata(folder.path().join(AUDIT_FILE)).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_off_is_written_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = store(folder.path(), &["orphan.delete", "orphan.delete"]).await;
    AuditFile::new(folder.path(), Arc::clone(&journal)).open().await.expect("written");
    let path = folder.path().join(AUDIT_FILE);
    let length = fs::metadata(&path).expect("the file").len();
    OpenOptions::new().write(true).open(&path).expect("the file").set_len(length - 7).expect("cut off");
    AuditFile::new(folder.path(), journal).open().await.expect("written");
    assert_eq!(events(folder.path()), listed(&["orphan.delete", "orphan.delete"]));
    assert!(!folder.path().join("audit.jsonl.1").exists(), "the rest of it was sound");
}

#[tokio::test]
async fn a_file_of_another_history_is_set_aside_and_written_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let journal = store(folder.path(), &["orphan.delete"]).await;
    let path = folder.path().join(AUDIT_FILE);
    for (number, other) in
        ["no event\n".to_owned(), format!("{}\n", json!({ "metadata": { "sequence": 9 } }))].into_iter().enumerate()
    {
        fs::write(&path, &other).expect("a file");
        AuditFile::new(folder.path(), Arc::clone(&journal)).open().await.expect("written");
        assert_eq!(events(folder.path()), listed(&["orphan.delete"]));
        let aside = folder.path().join(format!("audit.jsonl.{}", number + 1));
        assert_eq!(fs::read_to_string(aside).expect("what was there"), other);
    }
    // Moved away, as by a rotation: nothing is lost by it.
    fs::remove_file(&path).expect("there");
    AuditFile::new(folder.path(), journal).open().await.expect("written");
    assert_eq!(events(folder.path()), listed(&["orphan.delete"]));
}

#[test]
fn an_event_says_who_did_what_to_what() {
    let record = AuditRecord {
        at: Timestamp::from_second(1_700_000_000).expect("a time"),
        action: "obligation.discharge".to_owned(),
        subject: "s-1/lease/after_delete".to_owned(),
        by: "uid:0".to_owned(),
        message: "closed unpaid".to_owned(),
    };
    let event = event(7, &record, "g-1");
    assert_eq!((&event["class_uid"], &event["type_uid"]), (&json!(3004), &json!(300_404)));
    assert_eq!(event["time"], json!(1_700_000_000_000_i64));
    assert_eq!(event["actor"]["user"]["name"], "uid:0");
    assert_eq!(event["entity"], json!({ "type": "obligation", "uid": "s-1/lease/after_delete" }));
    assert_eq!(event["metadata"]["tenant_uid"], "g-1");
}
