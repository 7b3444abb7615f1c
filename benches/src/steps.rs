//! Where the time of a create goes: the driver keeps the steps of each launch in the sandbox's folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::figures::Figures;
use crate::gateway::Done;

/// The steps of many launches.
#[derive(Default)]
pub(crate) struct Steps(Vec<(String, Figures)>);

impl Steps {
    /// Takes in the launch of the only sandbox below a gateway's folder.
    pub(crate) fn take(&mut self, folder: &Path) -> Done<()> {
        let path = find(folder, 6).ok_or("no launch was recorded")?;
        let launched: Value = serde_json::from_slice(&fs::read(path)?)?;
        for step in launched["steps"].as_array().ok_or("no steps")? {
            let (Some(name), Some(micros)) = (step[0].as_str(), step[1].as_u64()) else { return Err("no step".into()) };
            if !self.0.iter().any(|(known, _)| known == name) {
                self.0.push((name.to_owned(), Figures::default()));
            }
            if let Some((_, figures)) = self.0.iter_mut().find(|(known, _)| known == name) {
                figures.add(Duration::from_micros(micros));
            }
        }
        Ok(())
    }

    pub(crate) fn report(&self) {
        for (name, figures) in &self.0 {
            figures.report(&format!("  of a launch: {name}"));
        }
    }
}

fn find(folder: &Path, depth: usize) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder).ok()?.flatten().collect();
    let here = entries.iter().find(|entry| entry.file_name() == "launched.json").map(fs::DirEntry::path);
    let below = || {
        let folders = entries.iter().filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(fs::DirEntry::path).find_map(|path| find(&path, depth - 1))
    };
    here.or_else(below)
}
