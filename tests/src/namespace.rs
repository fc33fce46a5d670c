//! A namespace of a test's own, deleted with everything in it when the test ends, well or not.

use anyhow::Result;

use crate::Kubectl;

/// A namespace that lives as long as this value.
pub struct Namespace<'a> {
    kubectl: &'a Kubectl,
    /// Its name.
    pub name: String,
}

impl<'a> Namespace<'a> {
    /// Creates it.
    pub fn create(kubectl: &'a Kubectl, name: &str) -> Result<Self> {
        kubectl.ok(&format!("create namespace {name}"))?;
        Ok(Self { kubectl, name: name.to_owned() })
    }

    /// Runs kubectl in it, demanding success.
    pub fn ok(&self, words: &str) -> Result<String> {
        self.kubectl.ok(&format!("-n {} {words}", self.name))
    }

    /// Runs kubectl in it, demanding failure; returns standard error.
    pub fn fails(&self, words: &str) -> Result<String> {
        self.kubectl.fails(&format!("-n {} {words}", self.name))
    }

    /// An object of it as JSON.
    pub fn json(&self, words: &str) -> Result<serde_json::Value> {
        self.kubectl.json(&format!("-n {} {words}", self.name))
    }

    /// Applies a manifest in it, demanding success.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let output = self.apply_raw(manifest)?;
        anyhow::ensure!(output.success, "kubectl apply failed: {}{}", output.stdout, output.stderr);
        Ok(output.stdout)
    }

    /// Applies a manifest in it, whatever comes of it.
    pub fn apply_raw(&self, manifest: &str) -> Result<crate::Output> {
        // The separator keeps kubectl from taking a flow mapping for JSON.
        self.kubectl.run_args(&["-n", &self.name, "apply", "-f", "-"], Some(&format!("---\n{manifest}")))
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kubectl.ok(&format!("delete namespace {} --wait=false", self.name)) {
            eprintln!("cannot delete namespace {}: {error:#}", self.name);
        }
    }
}
