//! Flags that all commands have, and how flags, environment and configuration file together name a cluster.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::bytes::Form;
use super::exit::{ExitCode, Failure};
use crate::client::{Client, ClientOptions};
use crate::config::{Config, ConfigErrors, Overrides};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a (dyn Fn(&str) -> Option<OsString> + Sync);

/// The longest time that `--timeout` may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Where `trialbay dev` puts its first node, if not told otherwise.
pub(crate) const DEV_BASE_PORT: u16 = 4000;

/// Flags that every command has.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// What to print.
    #[arg(short, long, global = true, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// Keys and values are hexadecimal, in arguments and in the output.
    #[arg(long, global = true)]
    pub(crate) hex: bool,
    /// The nodes of the cluster, as clients reach them [env: TRIALBAY_ENDPOINTS].
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub(crate) endpoints: Option<String>,
    /// The cluster's id [env: TRIALBAY_CLUSTER_ID].
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) cluster_id: Option<String>,
    /// The cluster's configuration file [env: TRIALBAY_CONFIG].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long a command may take altogether, as 500ms, 10s or 2m.
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people, and for simple scripts.
    Text,
    /// One JSON value; errors as JSON on standard error.
    Json,
}

/// Flags of commands that read settings of the configuration.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Override a setting of the configuration, as in `--set lease_ms=500`; can be repeated. TRIALBAY_LEASE_MS and so
    /// on do the same, and flags win.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

impl Global {
    /// How keys and values are written.
    pub(crate) fn form(&self) -> Form {
        if self.hex { Form::Hex } else { Form::Plain }
    }

    /// The configuration file, if one is named.
    pub(crate) fn config_path(&self, environment: Environment<'_>) -> Option<PathBuf> {
        self.config
            .clone()
            .or_else(|| environment("TRIALBAY_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from))
    }

    /// Settings that override the file: environment variables, then `settings`, then `--cluster-id`.
    pub(crate) fn overrides(&self, settings: &Settings, environment: Environment<'_>) -> Overrides {
        let mut overrides = Overrides::from_env(environment);
        for (key, value) in &settings.settings {
            overrides.set(key, value, &format!("--set {key}={value}"));
        }
        if let Some(cluster_id) = &self.cluster_id {
            overrides.set("cluster_id", cluster_id, "--cluster-id");
        }
        overrides
    }

    /// A client of the cluster that flags, environment and file name; of the dev cluster when they name none.
    pub(crate) fn client(&self, environment: Environment<'_>) -> Result<Client, Failure> {
        Ok(Client::new(self.client_options(environment)?)?)
    }

    /// The options of that client. For each of cluster id and endpoints a flag wins over the environment, that over
    /// the file, and that over the dev cluster.
    pub(crate) fn client_options(&self, environment: Environment<'_>) -> Result<ClientOptions, Failure> {
        let config = match self.config_path(environment) {
            Some(path) => load(&path, &self.overrides(&Settings::default(), environment))?,
            None => {
                let mut dev = Config::dev(DEV_BASE_PORT, 3, Path::new("")).expect("three nodes from port 4000 fit");
                let from_environment = || variable(environment, "TRIALBAY_CLUSTER_ID");
                if let Some(cluster_id) = self.cluster_id.clone().map(Ok).or_else(|| from_environment().transpose()) {
                    dev.cluster_id = cluster_id?;
                }
                dev
            }
        };
        let endpoints = match &self.endpoints {
            Some(endpoints) => Some(endpoints.clone()),
            None => variable(environment, "TRIALBAY_ENDPOINTS")?,
        };
        let endpoints: Vec<String> = match endpoints {
            Some(endpoints) => endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect(),
            None => config.nodes.iter().map(|node| format!("{}={}", node.name, node.client)).collect(),
        };
        let mut options = ClientOptions::new(config.cluster_id, endpoints)?;
        options.timeout = self.timeout;
        Ok(options)
    }
}

/// Loads a configuration file; its mistakes make a failure of one line each.
pub(crate) fn load(path: &Path, overrides: &Overrides) -> Result<Config, Failure> {
    Config::load_with(path, overrides).map_err(|errors: ConfigErrors| {
        Failure::new(ExitCode::BadConfig, errors.to_string().replace('\n', "\ntrialbay: "))
    })
}

/// A variable's text; unset and empty are the same.
fn variable(environment: Environment<'_>, name: &str) -> Result<Option<String>, Failure> {
    let text = environment(name).filter(|text| !text.is_empty()).map(OsString::into_string).transpose();
    text.map_err(|_| Failure::new(ExitCode::Usage, format!("{name} is not UTF-8: set it to text, or unset it")))
}

/// A time, as `500ms`, `10s` or `2m`; a plain number counts seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => return Err("write a number and a unit: 500ms, 10s or 2m".to_owned()),
    };
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).map(Duration::from_millis);
    ms.filter(|time| !time.is_zero() && *time <= TIMEOUT_MAX).ok_or_else(|| "write a time from 1ms to 60m".to_owned())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in lease_ms=500")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn global() -> Global {
        Global {
            output: Output::Text,
            hex: false,
            endpoints: None,
            cluster_id: None,
            config: None,
            timeout: Duration::from_secs(1),
        }
    }

    fn target(global: &Global, environment: &[(&str, &str)]) -> Result<(String, String), Failure> {
        let lookup =
            |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let options = global.client_options(&lookup)?;
        let endpoints: Vec<_> = options.endpoints.iter().map(ToString::to_string).collect();
        Ok((options.cluster_id, endpoints.join(" ")))
    }

    #[test]
    fn flags_win_over_the_environment_that_over_the_file_and_that_over_the_dev_cluster() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = "cluster_id = \"file\"\n[[node]]\nname = \"n\"\nid = 1\nclient = \"file:1\"\npeer = \"file:2\"\n";
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let is = |id: &str, endpoints: &str| Ok((id.to_owned(), endpoints.to_owned()));

        let dev = "n1=127.0.0.1:4000 n2=127.0.0.1:4010 n3=127.0.0.1:4020";
        assert_eq!(target(&global(), &[]), is("dev", dev));
        assert_eq!(target(&global(), &[("TRIALBAY_ENDPOINTS", ""), ("TRIALBAY_CONFIG", "")]), is("dev", dev));
        assert_eq!(target(&global(), &[("TRIALBAY_CONFIG", path)]), is("file", "n=file:1"));
        let environment =
            [("TRIALBAY_CONFIG", path), ("TRIALBAY_ENDPOINTS", "env:1, env:2"), ("TRIALBAY_CLUSTER_ID", "env")];
        assert_eq!(target(&global(), &environment), is("env", "env:1 env:2"));
        let mut flags = global();
        flags.cluster_id = Some("flag".to_owned());
        assert_eq!(target(&flags, &environment), is("flag", "env:1 env:2"));
        flags.endpoints = Some("flag:1".to_owned());
        assert_eq!(target(&flags, &environment), is("flag", "flag:1"));
        assert_eq!(target(&flags, &[]), is("flag", "flag:1"));
        flags.config = Some("/nonexistent".into());
        assert_eq!(target(&flags, &environment).unwrap_err().exit, ExitCode::BadConfig);
    }

    #[test]
    fn an_endpoint_that_is_none_is_a_mistake_of_usage() {
        let mut flags = global();
        flags.endpoints = Some("here".to_owned());
        assert_eq!(target(&flags, &[]).unwrap_err().exit, ExitCode::Usage);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "0", "0ms", "-1s", "1h", "61m", "99999999999999999999s", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
