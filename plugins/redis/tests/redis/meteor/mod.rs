//! A model of the subscriber, cultofcoders:redis-oplog 3, that hears the sink through a real Redis: after every batch, each
//! observer must have what a fresh query gives.
//!
//! The model follows what is known of the client: one queue for all messages; one read for each message and channel, unless
//! `protectAgainstRaceConditions` is off; three kinds of observers; `EJSON.parse`, outside of which nothing catches.
//!
//! Mistakes that other publishers make, and what shows that the sink does not:
//!
//! | | mistake | shown by |
//! |---|---|---|
//! | 1 | a text of 24 hexadecimal digits on the channel of an ObjectId | `messages::a_subscriber_hears_the_bytes_of_the_protocol`, `random` (`workload::all_ids`) |
//! | 2 | texts that begin with `-`, `~`, `{` unescaped | the same |
//! | 3 | numbers, booleans and null as ids left out | the same |
//! | 4 | channels joined with `$` | `collections::whatever_is_in_an_id_or_a_field_the_channel_is_whole` |
//! | 5 | namespaces joined with `,` | the same |
//! | 6 | the new namespace alone | `collections::templates_add_channels_for_where_the_document_was_and_where_it_is`, `cases::a_document_that_moves_leaves_the_namespace_it_was_in` |
//! | 7 | `f: []` on updates | `fields_tests::what_an_update_changed`, `random::mistakes_of_a_publisher_are_found` |
//! | 8 | deep `f` that lacks changes | `fields_tests::deep_paths_cover_all_that_changed`, `random` |
//! | 9 | deep paths alone | `cases::deep_paths_miss_a_sort_in_an_array_and_top_level_names_do_not`: not the default |
//! | 10 | a replacement does not name what it dropped | `cases::a_replacement_that_drops_the_field_of_a_sorted_list` |
//! | 11 | `$InfNan` | `ejson_tests::every_type_that_meteor_knows`, `random` |
//! | 12 | no `$escape`, unknown types as null, `EJSON$type` as it is stored | `ejson_tests`, `random` |
//! | 13 | of two options that choose collections one is lost | `collections::what_is_left_out_is_counted_and_the_position_moves_on` |
//! | 14 | nothing about drops and renames | `messages::what_has_no_message_is_counted_and_lets_the_rest_pass` |
//! | 15 | ends on an error, does not resume | `faults` |
//! | 16 | an id alone where the app does not read | `documents::full_documents_are_those_after_the_event`, `random::mistakes_of_a_publisher_are_found` |
//! | 17 | other texts on a channel of subscribers | `messages::nothing_but_messages_is_ever_published` |

mod client;
mod ejson;
mod mongo;
mod observer;
mod workload;

mod cases;
mod random;
