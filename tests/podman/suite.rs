//! Every test of the suite, to be run over any number of benches: `conformance! { NAME: PLACE, … }` makes a module for each.
//!
//! The binary that includes this has the modules `bench`, `commands`, `containers`, `images`, `inside`, `refusals`,
//! `registry`, `sessions`, `settings` and `shared` beside it.

macro_rules! conformance {
    ($($name:ident: $place:path),* $(,)?) => {$(
        mod $name {
            tests! {
                $place;
                containers:
                    every_field_reaches_the_container,
                    a_look_finds_ours_and_the_foreign_one_with_a_wanted_name,
                    the_life_of_a_container,
                    anonymous_volumes_outlive_their_container,
                    a_volume_goes_from_one_container_to_the_next,
                    a_container_is_found_by_its_name,
                    asking_twice_is_fine,
                    exit_codes_are_seen,
                    a_frozen_container_is_unfrozen_stopped_and_removed,
                    a_start_right_after_an_exit_is_not_swallowed,
                    what_podman_restarts_all_the_time_stays_stopped,
                    many_that_ignore_their_signal_stop_in_one_grace,
                    what_honours_its_signal_is_not_started_again,
                    a_container_is_asked_to_end_by_its_own_signal,
                    health_checks_run_on_demand,
                    an_images_health_check_is_switched_off,
                    an_empty_command_is_no_arguments,
                    a_lost_key_brings_live_values,
                    events_are_the_owners,
                    a_copy_is_distinguished_from_what_it_was_made_of,
                    another_roots_are_foreign,
                    ports_lead_to_the_agent;
                settings:
                    every_setting_holds_inside,
                    no_entrypoint_at_all,
                    a_short_time_to_stop_is_kept,
                    a_port_that_podman_chooses_is_seen;
                shared:
                    networks_are_made_seen_and_removed,
                    agents_of_one_network_find_each_other,
                    an_address_on_a_network_is_kept,
                    no_network_and_the_hosts,
                    volumes_are_made_seen_and_outlive_containers;
                commands:
                    a_commands_streams_and_code_are_kept_apart,
                    standard_input_is_half_closed,
                    a_commands_environment_and_directory,
                    a_command_that_is_not_there,
                    much_output_arrives_whole,
                    a_terminal_has_its_size_and_follows_it,
                    keys_are_the_commands,
                    every_byte_goes_both_ways_on_a_terminal,
                    a_terminals_end_is_the_commands,
                    a_command_on_a_terminal_is_ended_with_all_it_began,
                    a_terminal_wants_a_container_that_runs,
                    a_command_is_run_by_who_is_named,
                    logs_keep_streams_and_bytes,
                    a_tail_is_the_last_lines,
                    a_followed_log_ends_with_its_container;
                images:
                    names_are_reported_as_podman_files_them,
                    an_image_without_a_name_has_its_id,
                    free_space_is_reported,
                    compressed_archives_load_once_decompressed,
                    a_broken_archive_is_refused_and_leaves_nothing,
                    an_archive_that_cannot_be_read_is_not_podmans_fault,
                    an_image_is_named_again_and_removed_with_all_names,
                    an_image_in_use_stays_with_its_names,
                    a_container_is_made_from_the_image_whatever_its_name_points_to,
                    an_image_says_what_it_is_built_for_and_where_it_keeps_data;
                refusals:
                    a_taken_name_is_a_conflict,
                    a_missing_image_is_not_found,
                    a_taken_port_is_a_conflict_that_names_it,
                    a_missing_program_is_reported_in_podmans_words,
                    a_missing_mount_source_is_not_made,
                    what_is_gone_is_not_found,
                    secrets_stay_out_of_errors;
                registry:
                    pulled_by_tag_and_by_digest,
                    pulled_with_the_login_of_whoever_asks,
                    a_missing_tag_is_an_error_with_the_registrys_words;
                sessions:
                    a_session_takes_every_byte_and_ends,
                    what_speaks_against_a_session_is_said_at_once,
                    one_writes_to_a_session_and_others_look,
                    a_session_on_a_terminal_has_its_writers_size,
                    a_session_is_stopped_and_its_end_is_known,
                    who_watches_hears_of_every_change,
                    the_last_that_a_session_printed_is_told,
                    an_archive_is_put_into_a_container,
                    sessions_want_no_shell_and_no_directory,
                    sessions_of_a_root_that_cannot_be_written,
                    words_reach_a_sessions_command_as_they_are;
                inside:
                    a_declared_session_is_begun_and_ended_and_nothing_else_is_touched,
                    a_workspace_is_brought_and_compared_with_its_source;
            }
        }
    )*};
}

macro_rules! tests {
    ($place:path; $($module:ident: $($test:ident),* $(,)?;)*) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            crate::bench::run($place(), crate::$module::$test).await;
        }
    )*)*};
}
