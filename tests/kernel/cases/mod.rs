//! The claims, by what they are about.

mod build_mounts;
mod builds;
mod calls;
mod clean_up;
mod daemon;
mod conversions;
mod definitions;
mod examples;
mod denials;
mod docker_daemon;
mod docker_engine;
mod environments;
mod full_disks;
mod handovers;
mod hostile;
mod images_kept;
mod isolation;
mod limits;
mod mounted_images;
mod packages;
mod posture;
mod power_loss;
mod refusals;
mod registries;
mod root_files;
mod secrets;
mod submitted;
mod warm;
mod watched;

use crate::case::Case;

/// Every claim.
pub(crate) fn all() -> Vec<Case> {
    let all: Vec<Case> = [
        denials::cases(),
        posture::cases(),
        power_loss::cases(),
        isolation::cases(),
        hostile::cases(),
        limits::cases(),
        builds::cases(),
        build_mounts::cases(),
        definitions::cases(),
        calls::cases(),
        warm::cases(),
        environments::cases(),
        packages::cases(),
        refusals::cases(),
        root_files::cases(),
        mounted_images::cases(),
        docker_daemon::cases(),
        registries::cases(),
        conversions::cases(),
        handovers::cases(),
        clean_up::cases(),
        daemon::cases(),
        watched::cases(),
        secrets::cases(),
        submitted::cases(),
        images_kept::cases(),
        full_disks::cases(),
        examples::cases(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let docker = docker_engine::cases(&all);
    all.into_iter().chain(docker).collect()
}
