//! Objects of one kind in the order they were made, and Stripe's cursor paging over them.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::{Params, TEXT};

/// Objects of one kind.
const MAX_OBJECTS: usize = 100_000;
/// Stripe's page sizes.
const PAGE: i64 = 10;
const MAX_PAGE: i64 = 100;

/// Objects of one kind, found by id, listed newest first. A taken object leaves its place empty.
#[derive(Debug)]
pub(super) struct Shelf<T> {
    noun: &'static str,
    items: Vec<Option<T>>,
    places: HashMap<String, usize>,
}

impl<T> Shelf<T> {
    /// An empty shelf; `noun` is what errors call its objects.
    pub(super) fn new(noun: &'static str) -> Self {
        Self { noun, items: Vec::new(), places: HashMap::new() }
    }

    /// Puts an object on the shelf; the id must be new (see [`Shelf::knows`]).
    pub(super) fn put(&mut self, id: String, item: T) -> Result<(), ApiError> {
        self.check_room()?;
        self.places.insert(id, self.items.len());
        self.items.push(Some(item));
        Ok(())
    }

    /// Whether one more object has a place; 503 if not.
    pub(super) fn check_room(&self) -> Result<(), ApiError> {
        if self.items.len() < MAX_OBJECTS { Ok(()) } else { Err(ApiError::full(self.noun, MAX_OBJECTS)) }
    }

    /// Whether `id` was ever put here.
    pub(super) fn knows(&self, id: &str) -> bool {
        self.places.contains_key(id)
    }

    /// The object, if it is there.
    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.items.get(*self.places.get(id)?)?.as_ref()
    }

    /// The object a path names, or 404.
    pub(super) fn need(&self, id: &str, param: &str) -> Result<&T, ApiError> {
        self.get(id).ok_or_else(|| ApiError::no_such(self.noun, id, param))
    }

    /// The object a path names, to be changed, or 404.
    pub(super) fn need_mut(&mut self, id: &str, param: &str) -> Result<&mut T, ApiError> {
        let place = self.places.get(id).copied();
        let item = place.and_then(|place| self.items.get_mut(place)).and_then(Option::as_mut);
        item.ok_or_else(|| ApiError::no_such(self.noun, id, param))
    }

    /// The object a parameter names, or 400.
    pub(super) fn refer(&self, id: &str, param: &str) -> Result<&T, ApiError> {
        self.get(id).ok_or_else(|| ApiError::no_such_reference(self.noun, id, param))
    }

    /// Takes the object away, or 404.
    pub(super) fn take(&mut self, id: &str, param: &str) -> Result<T, ApiError> {
        let place = self.places.get(id).copied();
        let item = place.and_then(|place| self.items.get_mut(place)).and_then(Option::take);
        item.ok_or_else(|| ApiError::no_such(self.noun, id, param))
    }

    /// All objects, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.items.iter().flatten()
    }

    /// All objects, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.items.iter_mut().flatten()
    }

    /// One page of the objects that `keep` wants, newest first, and whether there are more in that direction.
    pub(super) fn page(&self, cursor: &Cursor, keep: impl Fn(&T) -> bool) -> Result<(Vec<&T>, bool), ApiError> {
        let place = |id: &str, param: &str| {
            self.places.get(id).copied().ok_or_else(|| ApiError::no_such_reference(self.noun, id, param))
        };
        let wanted = |item: &&T| keep(item);
        let mut found: Vec<&T> = match &cursor.from {
            From::Newest => self.items.iter().rev().flatten().filter(wanted).take(cursor.limit + 1).collect(),
            From::After(id) => {
                let older = &self.items[..place(id, "starting_after")?];
                older.iter().rev().flatten().filter(wanted).take(cursor.limit + 1).collect()
            }
            From::Before(id) => {
                let newer = self.items[place(id, "ending_before")?..].iter().skip(1);
                newer.flatten().filter(wanted).take(cursor.limit + 1).collect()
            }
        };
        let has_more = found.len() > cursor.limit;
        found.truncate(cursor.limit);
        if matches!(cursor.from, From::Before(_)) {
            found.reverse();
        }
        Ok((found, has_more))
    }
}

/// `limit`, `starting_after`, `ending_before`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// 1 to 100.
    pub(super) limit: usize,
    pub(super) from: From,
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    Newest,
    After(String),
    Before(String),
}

impl Cursor {
    /// Takes the three paging parameters.
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        let limit = params.integer("limit")?.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            let message = format!("Invalid limit: must be between 1 and {MAX_PAGE}");
            return Err(ApiError::invalid(message).code("parameter_invalid_integer").param("limit"));
        }
        let from = match (params.text("starting_after", TEXT)?, params.text("ending_before", TEXT)?) {
            (None, None) => From::Newest,
            (Some(id), None) => From::After(id),
            (None, Some(id)) => From::Before(id),
            (Some(_), Some(_)) => {
                let message = "You cannot parameterize both starting_after and ending_before.";
                return Err(ApiError::invalid(message).param("starting_after"));
            }
        };
        Ok(Self { limit: usize::try_from(limit).unwrap_or(1), from })
    }
}

/// `created[gte]=…` and its like, or `created=…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Created {
    from: Option<i64>,
    to: Option<i64>,
}

impl Created {
    /// Takes `created`, in Unix seconds.
    pub(super) fn take(params: &mut Params) -> Result<Self, ApiError> {
        if !params.is_object("created") {
            let exact = params.integer("created")?;
            return Ok(Self { from: exact, to: exact });
        }
        let Some(mut range) = params.object("created")? else { return Ok(Self::default()) };
        let above = range.integer("gt")?.map(|s| s.saturating_add(1));
        let below = range.integer("lt")?.map(|s| s.saturating_sub(1));
        let (gte, lte) = (range.integer("gte")?, range.integer("lte")?);
        range.finish()?;
        Ok(Self { from: above.max(gte), to: [below, lte].into_iter().flatten().min() })
    }

    /// Whether an object made at `created` is in the range.
    pub(super) fn holds(self, created: i64) -> bool {
        self.from.is_none_or(|from| created >= from) && self.to.is_none_or(|to| created <= to)
    }
}

/// Stripe's list object.
pub(super) fn list(url: &str, data: impl IntoIterator<Item = Value>, more: bool) -> Value {
    json!({ "object": "list", "url": url, "has_more": more, "data": data.into_iter().collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::form;

    fn params(raw: &str) -> Params {
        Params::new(form::parse(raw).unwrap())
    }

    fn shelf(n: u32) -> Shelf<u32> {
        let mut shelf = Shelf::new("thing");
        for i in 1..=n {
            shelf.put(format!("t{i}"), i).unwrap();
        }
        shelf
    }

    fn page(shelf: &Shelf<u32>, raw: &str) -> (Vec<u32>, bool) {
        let cursor = Cursor::take(&mut params(raw)).unwrap();
        let (found, more) = shelf.page(&cursor, |_| true).unwrap();
        (found.into_iter().copied().collect(), more)
    }

    #[test]
    fn pages_go_from_new_to_old_and_back() {
        let shelf = shelf(5);
        assert_eq!(page(&shelf, "limit=2"), (vec![5, 4], true));
        assert_eq!(page(&shelf, "limit=2&starting_after=t4"), (vec![3, 2], true));
        assert_eq!(page(&shelf, "limit=2&starting_after=t2"), (vec![1], false));
        assert_eq!(page(&shelf, "limit=2&ending_before=t2"), (vec![4, 3], true));
        assert_eq!(page(&shelf, "limit=2&ending_before=t3"), (vec![5, 4], false));
    }

    #[test]
    fn a_taken_object_is_gone_but_still_a_place_to_go_on_from() {
        let mut shelf = shelf(4);
        assert_eq!(shelf.take("t3", "id").unwrap(), 3);
        assert_eq!(shelf.take("t3", "id").unwrap_err().status, 404);
        assert!(shelf.knows("t3"));
        assert_eq!(page(&shelf, "starting_after=t3"), (vec![2, 1], false));
    }

    #[test]
    fn bad_cursors_are_refused() {
        let unknown = Cursor { limit: 1, from: From::After("nope".into()) };
        assert_eq!(shelf(1).page(&unknown, |_| true).unwrap_err().param.as_deref(), Some("starting_after"));
        assert!(Cursor::take(&mut params("limit=0")).is_err());
        assert!(Cursor::take(&mut params("limit=101")).is_err());
        assert!(Cursor::take(&mut params("starting_after=a&ending_before=b")).is_err());
    }

    #[test]
    fn created_is_a_second_or_a_range() {
        let created = |raw| Created::take(&mut params(raw)).unwrap();
        assert!(created("created=5").holds(5) && !created("created=5").holds(6));
        let range = created("created[gt]=5&created[lte]=9");
        assert_eq!([5, 6, 9, 10].map(|s| range.holds(s)), [false, true, true, false]);
        assert!(Created::take(&mut params("created[since]=5")).is_err());
    }
}
