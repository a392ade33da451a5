//! Where queries, keys and values lie: side by side in the rows of one matrix or of two.

use std::ops::{Deref, DerefMut, Range};

use super::super::gemm::View;

/// What a token's projection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Compared with the keys.
    Query,
    /// Compared with the queries.
    Key,
    /// Mixed by how well query and key agree.
    Value,
}

/// Projected tokens, owned or borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Projected<T> {
    /// Of a sequence that attends to itself: query, key and value, `[tokens, 3 width]`.
    Joint(T),
    /// Of a sequence that attends to another.
    Apart {
        /// `[tokens, width]`
        query: T,
        /// Key and value, `[other tokens, 2 width]`.
        key_value: T,
    },
}

impl<T> Projected<T> {
    /// The rows that hold a role, the roles that share them, and the number of this one in them.
    fn place(&self, role: Role) -> (&T, usize, usize) {
        match (self, role) {
            (Self::Joint(rows), role) => (rows, 3, role as usize),
            (Self::Apart { query, .. }, Role::Query) => (query, 1, 0),
            (Self::Apart { key_value, .. }, role) => (key_value, 2, role as usize - 1),
        }
    }

    fn rows_mut(&mut self, role: Role) -> &mut T {
        match (self, role) {
            (Self::Joint(rows), _) => rows,
            (Self::Apart { query, .. }, Role::Query) => query,
            (Self::Apart { key_value, .. }, _) => key_value,
        }
    }
}

impl<T: Deref<Target = [f32]>> Projected<T> {
    /// One head of a role: these rows of these columns, of the `width` that a role has.
    pub(super) fn head(
        &self,
        role: Role,
        width: usize,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> View<'_> {
        let (data, roles, index) = self.place(role);
        let stride = roles * width;
        let start = rows.start * stride + index * width + columns.start;
        View::strided(&data[start..], rows.len(), columns.len(), stride)
    }
}

impl<T: DerefMut<Target = [f32]>> Projected<T> {
    /// Replaces one head of a role in all rows by `values`, `[rows, columns]`.
    pub(super) fn put(&mut self, role: Role, width: usize, columns: Range<usize>, values: &[f32]) {
        let (_, roles, index) = self.place(role);
        let columns = index * width + columns.start..index * width + columns.end;
        let rows = self.rows_mut(role).chunks_exact_mut(roles * width);
        for (row, values) in rows.zip(values.chunks_exact(columns.len())) {
            row[columns.clone()].copy_from_slice(values);
        }
    }
}
