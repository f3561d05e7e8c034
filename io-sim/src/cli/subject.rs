//! From a name on the command line to what is played.

use std::path::{Path, PathBuf};

use trialbay_sim::campaign::play_in;
use trialbay_sim::scenario::draw::{self, Kind, Swarm};
use trialbay_sim::scenario::{Scenario, WorldKind, file};
use trialbay_sim::trace::Recorder;
use trialbay_sim::{Bugs, Planted, Report};

use super::Subject;

/// What is played, ready.
pub(super) struct Ready {
    /// What the commands that go on from here take for it.
    pub(super) label: String,
    pub(super) scenario: Scenario,
    pub(super) seed: u64,
    pub(super) bugs: Bugs,
    pub(super) world: WorldKind,
}

impl Ready {
    /// Plays it, and has what happens told to `watch`.
    pub(super) fn play(&self, watch: Recorder) -> Result<Report, String> {
        play_in(self.world, &self.scenario, self.seed, self.bugs, watch)
    }
}

impl Subject {
    pub(super) fn ready(&self) -> Result<Ready, String> {
        let drawn = Kind::NAMES.iter().find(|(name, _)| *name == self.name);
        let drawn = drawn.map(|(_, kind)| Swarm { nodes: self.nodes, kind: *kind });
        let (scenario, first_seed) = match drawn {
            Some(swarm) => {
                check_nodes(self.nodes)?;
                (draw::scenario(self.seed.unwrap_or(0), &swarm), 0)
            }
            None => {
                let mut scenario = self.load()?;
                scenario.cluster.nodes = self.nodes.unwrap_or(scenario.cluster.nodes);
                let first_seed = scenario.first_seed;
                (scenario, first_seed)
            }
        };
        let planted = self.planted.as_deref().or(scenario.planted.as_deref());
        let planted = planted.map(find_planted).transpose()?;
        let mut label = self.name.clone();
        if let Some(nodes) = self.nodes {
            label += &format!(" --nodes {nodes}");
        }
        if let Some(planted) = &self.planted {
            label += &format!(" --planted {planted}");
        }
        scenario.check()?;
        let world = self.world.or(scenario.worlds.first().copied()).unwrap_or(WorldKind::Core);
        if let Some(WorldKind::Stack) = self.world {
            label += " --world stack";
        }
        let bugs = Bugs { planted, assertions_off: false };
        Ok(Ready { label, scenario, seed: self.seed.unwrap_or(first_seed), bugs, world })
    }

    fn load(&self) -> Result<Scenario, String> {
        let path = Path::new(&self.name);
        if path.extension().is_some_and(|extension| extension == "toml") {
            return file::load(path);
        }
        let dir = folder(self.scenarios.as_deref());
        let all = file::all(&dir)?;
        match all.iter().find(|(name, _)| *name == self.name) {
            Some((_, path)) => file::load(path),
            None => Err(format!(
                "there is no scenario `{}` in {}: see `trialbay-sim list`, or name a file, or `swarm`",
                self.name,
                dir.display()
            )),
        }
    }
}

pub(super) fn check_nodes(nodes: Option<u16>) -> Result<(), String> {
    match nodes.filter(|nodes| !(1..=7).contains(nodes)) {
        Some(nodes) => Err(format!("a cluster has 1 to 7 nodes, not {nodes}")),
        None => Ok(()),
    }
}

pub(super) fn find_planted(name: &str) -> Result<Planted, String> {
    let hint = if cfg!(feature = "planted-bugs") {
        ""
    } else {
        "; those of engine and node need a build with `--features planted-bugs`"
    };
    Planted::find(name).ok_or_else(|| format!("there is no planted bug `{name}`: see `trialbay-sim mutants`{hint}"))
}

/// Where new regressions go: with the scenarios of the folder that the command runs in, or else into that folder itself.
pub(super) fn regressions(said: Option<&Path>) -> PathBuf {
    let here = PathBuf::from("scenarios");
    said.map(Path::to_owned)
        .or_else(|| here.is_dir().then_some(here))
        .map_or_else(PathBuf::new, |dir| dir.join("regressions"))
}

/// Where the scenarios are: as said, or in the folder that the command runs in, or where it was built.
pub(super) fn folder(said: Option<&Path>) -> PathBuf {
    let here = PathBuf::from("scenarios");
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    said.map_or_else(|| if here.is_dir() { here } else { built }, Path::to_owned)
}
