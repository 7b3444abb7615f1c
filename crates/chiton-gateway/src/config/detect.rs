//! Which drivers a start uses. What the operator named is used unasked; when none is named, the compiled-in kinds look at
//! the machine one after the other, and the first that can run is used. Nothing about that is kept.

use chiton_model::{DriverId, Error, printable};

use super::error::Origin;
use super::external::EXTERNAL_KIND;
use super::reader::Shown;
use super::types::{Catalog, Config, DriverConfig, Drivers};

/// The drivers of one start.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Never empty, no id twice.
    pub drivers: Vec<DriverConfig>,
    /// The driver of requests that name none; one of `drivers`.
    pub default_driver: DriverId,
    /// What was found, in words, when the operator named no driver.
    pub detected: Option<String>,
}

/// None of the compiled-in kinds can run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoDriver {
    /// Every kind in the order in which it was asked, by name, with why it cannot run and the cure.
    pub tried: Vec<(String, Error)>,
}

impl Config {
    /// The drivers to run: the listed ones without any look at them, else the first kind that can run here. The latter
    /// takes up to a few seconds for each kind and blocks meanwhile.
    ///
    /// # Errors
    /// Why each kind cannot run.
    pub fn choose(&self, catalog: &dyn Catalog) -> Result<Chosen, NoDriver> {
        let candidates = match &self.compute.drivers {
            Drivers::Listed { drivers, default } => {
                return Ok(Chosen { drivers: drivers.clone(), default_driver: default.clone(), detected: None });
            }
            Drivers::Detect(candidates) => candidates,
        };
        let mut tried = Vec::new();
        for candidate in candidates {
            match probe(candidate, catalog) {
                Ok(found) => {
                    return Ok(Chosen {
                        drivers: vec![candidate.clone()],
                        default_driver: candidate.id.clone(),
                        detected: Some(found),
                    });
                }
                Err(error) => tried.push((candidate.id.to_string(), error)),
            }
        }
        Err(NoDriver { tried })
    }
}

fn probe(candidate: &DriverConfig, catalog: &dyn Catalog) -> Result<String, Error> {
    if candidate.kind == EXTERNAL_KIND {
        // Whose process that is only the operator knows.
        let id = candidate.id.as_str();
        return Err(Error::unavailable(id, "it is an external driver, which is used by name only")
            .cure(format!("name it: --driver {id}")));
    }
    // Its table was checked if there is one; a kind that cannot be without is no candidate.
    let issues = catalog.check_driver(&candidate.kind, candidate.id.as_str(), &candidate.options);
    if let Some(issue) = issues.into_iter().next() {
        let key = format!("compute.driver.{}", candidate.id);
        return Err(Error::invalid(key.as_str(), issue.message).cure(format!("add a table [{key}]")));
    }
    catalog.probe_driver(&candidate.kind, &candidate.options)
}

impl Chosen {
    /// Every setting with its value and origin, as this start has them: [`Config::origins`] with what was detected.
    pub fn origins(&self, config: &Config) -> Vec<Shown> {
        let mut shown = config.origins().to_vec();
        let Some(found) = &self.detected else { return shown };
        let id = self.default_driver.as_str();
        for row in &mut shown {
            row.value = match row.key.as_str() {
                "compute.drivers" => format!("{:?}", [id]),
                "compute.default_driver" => format!("{id:?}"),
                _ => continue,
            };
            row.origin = Origin::Detected(found.clone());
        }
        shown
    }
}

impl From<NoDriver> for Error {
    fn from(none: NoDriver) -> Self {
        if none.tried.is_empty() {
            return Self::unavailable("driver", "no kind of driver is built in").cure("run a build that has one");
        }
        let lines = none.tried.iter().map(|(kind, error)| {
            let cure = error.cure.as_deref().unwrap_or("chiton doctor shows what it needs");
            format!("\n  {kind}: {}; {}", printable(&error.message), printable(cure))
        });
        let lines: String = lines.collect();
        let message = format!("no driver is configured, and none that is built in can run here:{lines}");
        let first = none.tried.first().map_or("oci", |(kind, _)| kind);
        Self::unavailable("driver", message)
            .cure(format!("put one of them right; one that is named is used without this look: --driver {first}"))
    }
}
