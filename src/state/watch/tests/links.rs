//! Symbolic links on the way.

use super::*;

#[tokio::test]
async fn what_a_link_leads_to_is_watched() {
    let place = Place::new();
    place.write("far/away/real.yaml", version("1"));
    place.link("conf/s.yaml", "../far/away/real.yaml");
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    for round in ["2", "3"] {
        place.write("far/away/real.yaml", version(round));
        seen.becomes(round).await;
    }
    for round in ["4", "5"] {
        place.write("far/next", version(round));
        place.rename("far/next", "far/away/real.yaml");
        seen.becomes(round).await;
    }
    place.shell("rm -r far");
    seen.becomes("bad").await;
    place.write("far/away/real.yaml", version("6"));
    seen.becomes("6").await;
}

#[tokio::test]
async fn a_link_may_lead_elsewhere() {
    let place = Place::new();
    for n in 1..=4 {
        place.write(&format!("v{n}/s.yaml"), version(&n.to_string()));
    }
    place.link("conf/s.yaml", "../v1/s.yaml");
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    for n in ["2", "3"] {
        place.link("tmp", format!("../v{n}/s.yaml"));
        place.rename("tmp", "conf/s.yaml");
        seen.becomes(n).await;
    }
    place.shell("ln -sfn ../v4/s.yaml conf/s.yaml");
    seen.becomes("4").await;
    place.write("v4/s.yaml", version("5"));
    seen.becomes("5").await;
    // Where it led before is no matter any more, and what it leads to now has the same bytes.
    place.write("v3/s.yaml", version("9"));
    place.write("v2/s.yaml", version("5"));
    place.shell("ln -sfn ../v2/s.yaml conf/s.yaml");
    seen.is_quiet().await;
    place.write("v2/s.yaml", version("6"));
    seen.becomes("6").await;
    place.shell("ln -sfn nowhere conf/s.yaml");
    seen.becomes("bad").await;
    place.shell("ln -sfn s.yaml conf/s.yaml");
    let looped = |revision: &Revision| revision.error().is_some_and(|err| err.to_string().contains("failed to read"));
    tokio::time::timeout(PATIENCE, seen.watching.revisions.wait_for(looped)).await.unwrap().unwrap();
    place.shell("ln -sfn ../v1/s.yaml conf/s.yaml");
    seen.becomes("1").await;
}

/// As the kubelet does it: files lead through `..data`, which is swapped in one step, and what it led to is removed.
#[tokio::test]
async fn a_config_map_is_swapped() {
    let place = Place::new();
    let volume = |n: usize| {
        place.write(&format!("conf/..v{n}/s.yaml"), env_file("a.env"));
        place.write(&format!("conf/..v{n}/a.env"), format!("A={n}\n"));
    };
    volume(0);
    place.link("conf/..data", "..v0");
    place.link("conf/s.yaml", "..data/s.yaml");
    place.link("conf/a.env", "..data/a.env");
    let mut seen = Seen::of(&place.path("conf/s.yaml")).await;
    assert_eq!(seen.now(), "1 A=0");
    for n in 1..=5 {
        volume(n);
        place.link("conf/..data_tmp", format!("..v{n}"));
        place.rename("conf/..data_tmp", "conf/..data");
        std::fs::remove_dir_all(place.path(&format!("conf/..v{}", n - 1))).unwrap();
        seen.becomes(&format!("1 A={n}")).await;
    }
}

/// As releases are deployed: the directory itself is a link.
#[tokio::test]
async fn a_directory_on_the_way_is_a_link() {
    let place = Place::new();
    for n in 1..=3 {
        place.write(&format!("releases/{n}/conf/s.yaml"), version(&n.to_string()));
    }
    place.link("current", place.path("releases/1"));
    let mut seen = Seen::of(&place.path("current/conf/s.yaml")).await;
    for n in ["2", "3"] {
        place.shell(&format!("ln -s releases/{n} tmp; mv -T tmp current"));
        seen.becomes(n).await;
    }
    place.write("releases/3/conf/s.yaml", version("4"));
    seen.becomes("4").await;
}
