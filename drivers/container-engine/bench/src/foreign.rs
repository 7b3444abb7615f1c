//! Objects of somebody else, and names of images that change what they mean.

use async_trait::async_trait;
use chiton_driver_suite::{Failure, Foreign, Named, Verdict};
use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, query};
use crate::bench::finally;

/// A container that was made by hand and runs.
pub(crate) struct ByHand {
    api: Api,
    name: String,
    id: Value,
}

impl ByHand {
    pub(crate) async fn new(api: &Api, image: &str, name: &str) -> Verdict<Self> {
        let body = json!({
            "Image": image,
            "Entrypoint": ["sleep"],
            "Cmd": ["600"],
            "HostConfig": { "NetworkMode": "none" },
        });
        let made = api.change(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
        let id = made.json("make a container")?["Id"].clone();
        api.change(Method::POST, &format!("/containers/{name}/start"), None).await?;
        Ok(Self { api: api.clone(), name: name.to_owned(), id })
    }
}

#[async_trait]
impl Foreign for ByHand {
    async fn is_there(&self) -> Verdict<bool> {
        let found = self.api.find(&format!("/containers/{}/json", self.name)).await?;
        Ok(found.is_some_and(|found| found["Id"] == self.id && found["State"]["Running"] == true))
    }

    async fn remove(&self) -> Verdict {
        self.api.remove(&format!("/containers/{}?force=true&v=true", self.name)).await
    }
}

/// A tag of the test image that can be moved to another one.
pub(crate) struct Tagged {
    api: Api,
    image: String,
    repository: String,
}

impl Tagged {
    pub(crate) async fn new(api: &Api, image: &str) -> Verdict<Self> {
        let repository = format!("localhost/test-{}", uuid::Uuid::new_v4().simple());
        let path = format!("/images/{image}/tag?repo={}&tag=moving", query(&repository));
        api.change(Method::POST, &path, None).await?;
        Ok(Self { api: api.clone(), image: image.to_owned(), repository })
    }
}

#[async_trait]
impl Named for Tagged {
    fn reference(&self) -> String {
        format!("{}:moving", self.repository)
    }

    async fn retag(&self) -> Verdict {
        let name = format!("test-{}", uuid::Uuid::new_v4().simple());
        let body = json!({
            "Image": self.image,
            "Entrypoint": ["touch"],
            "Cmd": ["/retagged"],
            "HostConfig": { "NetworkMode": "none" },
        });
        self.api.change(Method::POST, &format!("/containers/create?name={name}"), Some(&body)).await?;
        let made = async {
            self.api.change(Method::POST, &format!("/containers/{name}/start"), None).await?;
            let ended = self.api.change(Method::POST, &format!("/containers/{name}/wait"), None).await?;
            let code = ended.json("wait for the new image's container")?["StatusCode"].clone();
            if code != 0 {
                return Err(Failure::bench("make another image", format!("its container ended with {code}")).into());
            }
            let path = format!("/commit?container={name}&repo={}&tag=moving", query(&self.repository));
            self.api.change(Method::POST, &path, Some(&json!({}))).await.map(drop)
        };
        let made = made.await;
        self.api.remove(&format!("/containers/{name}?force=true&v=true")).await?;
        made
    }
}

impl Drop for Tagged {
    fn drop(&mut self) {
        let (api, reference) = (self.api.clone(), self.reference());
        finally(async move { api.remove(&format!("/images/{reference}?force=true")).await });
    }
}
